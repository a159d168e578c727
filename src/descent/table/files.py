"""Tables in files: a CSV is read as text and Parquet as it is, block by block."""

import csv
import gzip
import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Literal
from unicodedata import normalize

import polars as pl
import polars.selectors as cs

from descent.data.named_path import NamedPath
from descent.errors import first_line, require_one_of

BLOCK = 1 << 20  # values to read at once
SEPARATORS = (",", ";", "\t", "|")
ORDERS = {"day_first": "$3-$2-$1", "month_first": "$3-$1-$2"}  # of a date's day, month and year
DAMAGE = (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError, EOFError, zlib.error)
csv.field_size_limit(1 << 24)  # characters of a value; a quote that never ends is an error there


@dataclass
class Format:
    """How the values of files are written; conf/data/table.yaml explains the fields."""

    missing: list[str]
    encoding: str = "auto"
    separator: str | None = None
    decimal: Literal["point", "comma"] = "point"
    dates: str = "auto"

    def __post_init__(self) -> None:
        self.encoding = "utf-8-sig" if self.encoding in ("auto", "utf-8") else self.encoding
        self.separator = (self.separator or "").replace("\\t", "\t")
        if "%" not in self.dates:
            shown = f"auto, {', '.join(ORDERS)}, or a form such as %d.%m.%Y"
            require_one_of(("auto", *ORDERS), "dates", self.dates, shown)


def read_blocks(named: NamedPath, format: Format) -> Iterator[tuple[int, pl.DataFrame]]:
    """Yield a file's rows from `tidy`, and how many came before; a ConfigError if there are none."""
    file, total = named.locate("file"), 0
    try:
        with file.open("rb") as stream:
            magic = stream.read(4)
        if magic == b"PK\x03\x04":
            raise named.error("a table, not a zip archive or a spreadsheet: unpack it, or save it as CSV")
        encoding = "utf-16" if magic.startswith((b"\xff\xfe", b"\xfe\xff")) else format.encoding
        open_it = partial(gzip.open if magic.startswith(b"\x1f\x8b") else open, file, "rt", encoding=encoding)
        for frame in read_parquet(file) if magic == b"PAR1" else read_csv(open_it, named, format.separator):
            yield total, tidy(frame, format.missing)
            total += len(frame)
    except csv.Error as error:
        raise named.error(f"a CSV whose quotes are closed and enclose whole values ({error})") from error
    except DAMAGE as error:
        raise named.error(f"a CSV or Parquet file that can be read ({first_line(error)})") from error
    except (UnicodeError, LookupError) as error:
        hint = "data.encoding sets it, such as latin-1, utf-16 or cp949"
        raise named.error(f"text in {format.encoding} ({first_line(error)}); {hint}") from error
    if total == 0:
        raise named.error("rows below the header, but there are none")


def read_parquet(file: Path) -> Iterator[pl.DataFrame]:
    """Yield the rows of a Parquet file."""
    scan = pl.scan_parquet(file)
    rows = max(1, BLOCK // max(1, len(scan.collect_schema())))
    for start in range(0, scan.select(pl.len()).collect().item(), rows):
        yield scan.slice(start, rows).collect()


def read_csv(open_it: Any, named: NamedPath, separator: str | None) -> Iterator[pl.DataFrame]:
    """Yield the rows of a CSV, every column as text."""
    with open_it() as lines:
        header = next((line for line in lines if line.strip(" \n")), "")
        if not header or "\0" in header:
            raise named.error("a table, but it is empty or not text; data.encoding sets a CSV's encoding")
        separator = separator or max(SEPARATORS, key=re.sub('"[^"]*"', "", header).count)
        lines.seek(0)
        reader = csv.reader(lines, delimiter=separator, skipinitialspace=True, strict=True)
        names = next(row for row in reader if "".join(row).strip(" "))
        # macOS writes names in NFD, which look the same
        names = [normalize("NFC", name).strip() or f"column_{n}" for n, name in enumerate(names, 1)]
        rows = read_rows(reader, len(names), named)
        while block := list(islice(rows, max(1, BLOCK // len(names)))):
            columns = zip(names, zip(*block, strict=True), strict=True)
            yield pl.DataFrame([pl.Series(name, values, pl.String) for name, values in columns])


def read_rows(reader: Any, width: int, named: NamedPath) -> Iterator[list[str | None]]:
    """Yield the rows below the header; a short row ends with missing values.

    A blank line is not a row; in a file of one column, it is a missing value.
    """
    blanks = 0
    for row in reader:
        if not row or (len(row) == 1 < width and not row[0].strip(" ")):
            blanks += 1
            continue
        if len(row) > width:
            line = f"line {reader.line_num:,} has {len(row)} values, the header {width}"
            raise named.error(f"rows like the header, but {line}")
        for _ in range(blanks if width == 1 else 0):
            yield [None]
        blanks = 0
        yield row + [None] * (width - len(row))


def tidy(frame: pl.DataFrame, missing: Sequence[str]) -> pl.DataFrame:
    """Return rows with null for missing values, and text without surrounding spaces."""
    text = cs.by_dtype(pl.String, pl.Categorical, pl.Enum).cast(pl.String).str.strip_chars()
    frame = frame.with_columns(text, cs.float().fill_nan(None))
    numbers = any(re.fullmatch(r"-?\d+(\.\d+)?", word) for word in missing)
    values = cs.string() | cs.numeric() if numbers else cs.string()
    words = as_words(values) if numbers else values
    return frame.with_columns(pl.when(~words.is_in(["", "nan", "NaN", *missing])).then(values))


def as_words(values: Any) -> Any:
    """Return a series or expression as words: 1, +1 and 1.0 are all "1", True and TRUE "true"."""
    words = values.cast(pl.String).str.replace(r"^\+?(-?\d+)(?:\.0+)?$", "$1")
    return words.str.replace(r"^(?i:true)$", "true").str.replace(r"^(?i:false)$", "false")
