"""Tables in files: polars reads a CSV as text and Parquet as it is, block by block."""

import csv
import gzip
import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO, StringIO, TextIOWrapper
from itertools import chain
from pathlib import Path
from typing import IO, Any
from unicodedata import normalize

import polars as pl
import polars.selectors as cs

from descent.data.named_path import NamedPath
from descent.errors import first_line, require_one_of

BLOCK = 1 << 22  # characters of a CSV, or numbers of a Parquet file, to read at once
LONGEST = 1 << 24  # characters of a row: a small compressed file may expand beyond memory
SEPARATORS = (",", ";", "\t", "|")
ORDERS = {"day_first": "$3-$2-$1", "month_first": "$3-$1-$2"}  # of a date's day, month and year
MARKS = {b"\xef\xbb\xbf": "utf-8-sig", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}
DAMAGE = (pl.exceptions.PolarsError, pl.exceptions.PanicException, csv.Error, OSError, EOFError, zlib.error)


@dataclass
class Format:
    """The text format of files, as in conf/data/table.yaml; a separator of "" is detected."""

    missing: list[str]
    encoding: str = "utf-8"
    separator: str = ""
    decimal: str = "point"
    dates: str = "auto"

    def __post_init__(self) -> None:
        if "%" not in self.dates:
            shown = f"auto, {', '.join(ORDERS)}, or a form such as %d.%m.%Y"
            require_one_of(("auto", *ORDERS), "dates", self.dates, shown)


def read_blocks(named: NamedPath, format: Format) -> Iterator[pl.DataFrame]:
    """Yield a file's rows, those of a CSV as text, as of `tidy`; a ConfigError where there are none."""
    file, total = named.locate("file"), 0
    try:
        with file.open("rb") as stream:
            magic = stream.read(4)
        if magic == b"PK\x03\x04":
            raise named.error("a table, not a zip archive or a spreadsheet: unpack it, or save it as CSV")
        for frame in read_parquet(file) if magic == b"PAR1" else read_csv(file, named, format):
            total += len(frame)
            yield tidy(frame, format.missing)
    except DAMAGE as error:
        raise named.error(f"a CSV or Parquet file that can be read ({first_line(error)})") from error
    except (UnicodeError, LookupError) as error:
        hint = "data.encoding says what it is in, such as latin-1, utf-16 or cp949"
        raise named.error(f"text in {format.encoding} ({first_line(error)}); {hint}") from error
    if total == 0:
        raise named.error("rows beneath the header, but there are none")


def read_parquet(file: Path) -> Iterator[pl.DataFrame]:
    """Yield the rows of a Parquet file."""
    scan = pl.scan_parquet(file)
    rows = max(1, BLOCK // max(1, len(scan.collect_schema())))
    for start in range(0, scan.select(pl.len()).collect().item(), rows):
        yield scan.slice(start, rows).collect()


def read_csv(file: Path, named: NamedPath, format: Format) -> Iterator[pl.DataFrame]:
    """Yield the rows of a CSV, every column as text."""
    with open_csv(file, format.encoding) as stream:
        lines = iter(lambda: stream.readline(LONGEST), "")
        names, separator = read_header(lines, named, format.separator)
        # numbers replace the names, because polars does not accept quotes in a name
        first, header = 0, separator.join(str(place) for place in range(len(names)))
        for rows in join_lines(lines, '""\n' if len(names) == 1 else ""):
            try:
                text = BytesIO(f"{header}\n{rows}".encode())
                frame = pl.read_csv(text, infer_schema=False, separator=separator)
            except pl.exceptions.PolarsError as error:
                for number, row in enumerate(csv.reader(StringIO(rows), delimiter=separator), first + 1):
                    if len(row) > len(names):
                        long = f"row {number:,} has {len(row)} values, the header {len(names)}"
                        raise named.error(f"rows like the header, but {long}") from error
                raise named.error("a CSV whose quotes all end, and stand around whole values") from error
            first += len(frame)
            frame.columns = names
            yield frame


def open_csv(file: Path, encoding: str) -> IO[str]:
    """Open a CSV, which may be compressed by gzip; a mark of UTF-8 or UTF-16 says more than `encoding`."""
    stream: Any = file.open("rb")
    if stream.peek(2).startswith(b"\x1f\x8b"):
        stream = gzip.GzipFile(fileobj=stream)
    start = stream.peek(3)
    marked = next((name for mark, name in MARKS.items() if start.startswith(mark)), encoding)
    return TextIOWrapper(stream, marked)


def read_header(lines: Iterator[str], named: NamedPath, separator: str) -> tuple[list[str], str]:
    """Return the names of a CSV's columns, and its separator."""
    line = next((line for line in lines if line.strip(" \n")), "")
    if len(line) == LONGEST:
        raise csv.Error(f"a row of more than {LONGEST:,} characters")
    if not line or "\0" in line:
        raise named.error("a table, but it is empty or not text; data.encoding names the encoding of a CSV")
    separator = separator or max(SEPARATORS, key=re.sub('"[^"]*"', "", line).count)
    names = next(csv.reader(chain([line], lines), delimiter=separator, strict=True))
    # macOS writes names in NFD, which look the same
    return [normalize("NFC", name).strip() or f"column_{n}" for n, name in enumerate(names, 1)], separator


def join_lines(lines: Iterator[str], blank: str) -> Iterator[str]:
    """Yield the text of whole rows, which end after an even count of quotes.

    A blank line becomes `blank`: no row, or a missing value of a single column. The last ones are no rows.
    """
    rows: list[str] = []
    size = quotes = blanks = 0
    for line in lines:
        if quotes % 2 == 0 and not line.strip(" \n"):
            blanks += 1
            continue
        rows += [blank * blanks, line]
        blanks, size, quotes = 0, size + len(line), quotes + line.count('"')
        if size > LONGEST + BLOCK or len(line) == LONGEST:
            raise csv.Error(f"a row of more than {LONGEST:,} characters")
        if size > BLOCK and quotes % 2 == 0:
            yield "".join(rows)
            rows, size = [], 0
    if rows:
        yield "".join(rows)


def tidy(frame: pl.DataFrame, missing: Sequence[str]) -> pl.DataFrame:
    """Return rows with null for missing values, and text without surrounding spaces."""
    text = cs.by_dtype(pl.String, pl.Categorical, pl.Enum).cast(pl.String).str.strip_chars()
    frame = frame.with_columns(text, cs.float().fill_nan(None))
    numbers = any(re.fullmatch(r"-?\d+(\.\d+)?", word) for word in missing)
    values = cs.string() | cs.numeric() if numbers else cs.string()
    words = as_words(values) if numbers else values
    return frame.with_columns(pl.when(~words.is_in(["", "nan", "NaN", *missing])).then(values))


def as_words(values: Any) -> Any:
    """Return a series or expression as names: 1, +1 and 1.0 are all "1", because files differ in it."""
    return values.cast(pl.String).str.replace(r"^\+?(-?\d+)(?:\.0+)?$", "$1")
