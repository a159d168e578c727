"""Tables in files: polars reads a CSV as text and Parquet as it is, block by block."""

import csv
import gzip
import re
import zlib
from codecs import getincrementaldecoder
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from io import BytesIO, StringIO, TextIOWrapper
from itertools import chain
from pathlib import Path
from typing import IO, Any
from unicodedata import normalize

import polars as pl

from descent.data.named_path import NamedPath
from descent.errors import ConfigError, first_line, require, require_one_of

BLOCK = 1 << 22  # characters of a CSV, or numbers of a Parquet file, that are read at once
SEPARATORS = (",", ";", "\t", "|")
ORDERS = {"day_first": "$3-$2-$1", "month_first": "$3-$1-$2"}  # of a date's day, month and year
DAMAGE = (pl.exceptions.PolarsError, pl.exceptions.PanicException, csv.Error, OSError, EOFError, zlib.error)


@dataclass
class Format:
    """How the text of files is written, as conf/data/table.yaml has it; a separator of "" is found out."""

    missing: list[str]
    encoding: str = "utf-8"
    separator: str = ""
    decimal: str = "point"
    dates: str = "auto"

    def __post_init__(self) -> None:
        require_one_of(("point", "comma"), "decimal", self.decimal)
        if "%" not in self.dates:
            shown = f"auto, {', '.join(ORDERS)}, or a form such as %d.%m.%Y"
            require_one_of(("auto", *ORDERS), "dates", self.dates, shown)
        single = len(self.separator.encode()) < 2 and self.separator not in ('"', "\n")
        require(single, "separator", self.separator, "null, or one character such as ; or \\t")
        try:
            "".encode(self.encoding)
        except LookupError as error:
            known = "auto, or an encoding that Python knows, such as latin-1, utf-16 or cp949"
            raise ConfigError("encoding", self.encoding, expected=known) from error


def read_blocks(named: NamedPath, format: Format) -> Iterator[pl.DataFrame]:
    """Yield a file's rows in order, those of a CSV as text, as `tidy` returns them.

    Raises:
        ConfigError: no such file, or none that can be read, or one without rows.
    """
    file, total = named.locate("file"), 0
    if not file.is_file():
        raise named.error("a regular file, not a pipe or a device")
    try:
        with file.open("rb") as stream:
            magic = stream.read(4)
        if magic == b"PK\x03\x04":
            raise named.error("a table, not a zip archive or a spreadsheet: unpack it, or save it as CSV")
        for frame in read_parquet(file) if magic == b"PAR1" else read_csv(file, named, format):
            total += len(frame)
            yield tidy(frame, format.missing, named)
    except DAMAGE as error:
        raise named.error(f"a CSV or Parquet file that can be read ({first_line(error)})") from error
    except UnicodeError as error:
        hint = "data.encoding says what it is in, such as latin-1, utf-16 or cp949"
        raise named.error(f"text in UTF-8 ({first_line(error)}); {hint}") from error
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
        lines = read_lines(stream, named)
        names, separator = read_header(lines, named, format.separator)
        # numbers stand for the names, because polars takes no quotes within a name
        first, header = 0, separator.join(str(place) for place in range(len(names)))
        for rows in join_lines(lines, named, '""\n' if len(names) == 1 else ""):
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
    """Open a CSV, which may be compressed by gzip, as text whose lines end in a line feed alone.

    A mark of UTF-16, or UTF-8 with letters beyond ASCII, is read as that, whatever `encoding` is.
    """
    stream: Any = file.open("rb")
    if stream.peek(2).startswith(b"\x1f\x8b"):
        stream = gzip.GzipFile(fileobj=stream)
    start = stream.read(BLOCK)
    stream.seek(0)
    try:
        if not getincrementaldecoder("utf-8")().decode(start).isascii() or encoding == "utf-8":
            encoding = "utf-8-sig"
    except UnicodeDecodeError:
        encoding = "utf-16" if start.startswith((b"\xff\xfe", b"\xfe\xff")) else encoding
    return TextIOWrapper(stream, encoding)


def read_lines(stream: IO[str], named: NamedPath) -> Iterator[str]:
    """Yield lines; raise a `ConfigError` at one that is so long that it could fill the memory."""
    for line in iter(partial(stream.readline, BLOCK), ""):
        if len(line) == BLOCK:
            raise named.error(f"lines of fewer than {BLOCK:,} characters")
        yield line


def read_header(lines: Iterator[str], named: NamedPath, separator: str) -> tuple[list[str], str]:
    """Return the names of a CSV's columns, and its separator."""
    line = next((line for line in lines if line.strip(" \n")), "")
    if not line or "\0" in line:
        hint = "it is not text: data.encoding names the encoding of a CSV" if line else "the file is empty"
        raise named.error(f"a table, but {hint}")
    if match := re.fullmatch("sep=(.)\n", line):  # Excel's
        line, separator = next(lines, ""), separator or match[1]
    bare = re.sub('"[^"]*"', "", line)
    best = max(SEPARATORS, key=bare.count)
    if separator not in bare and best in bare:
        raise named.error(f"columns with {separator!r} between them, but its header has {best!r}")
    names = next(csv.reader(chain([line], lines), delimiter=separator or best, strict=True))
    return [name.strip() or f"column_{place}" for place, name in enumerate(names, 1)], separator or best


def join_lines(lines: Iterator[str], named: NamedPath, blank: str) -> Iterator[str]:
    """Yield the text of whole rows, which end after an even count of quotes.

    A blank line becomes `blank`: no row, or a missing value of a single column. The last ones are no rows.
    """
    rows: list[str] = []
    blanks = size = quotes = 0
    for line in lines:
        if quotes % 2 == 0 and not line.strip(" \n"):
            blanks += 1
            continue
        rows += [blank * blanks, line]
        blanks, size, quotes = 0, size + len(line), quotes + line.count('"')
        if size > BLOCK and quotes % 2 == 0:
            yield "".join(rows)
            rows, size = [], 0
        elif size > 2 * BLOCK:
            raise named.error("a quote's end: the file has an odd number of quotes")
    if rows:
        yield "".join(rows)


def tidy(frame: pl.DataFrame, missing: Sequence[str], named: NamedPath) -> pl.DataFrame:
    """Return rows with null for what is missing, text without spaces around it, and names and text in NFC."""
    names = [normalize("NFC", name) for name in frame.columns]
    if len(set(names)) < len(names):
        raise named.error(f"names that differ in NFC, not two that are {max(names, key=names.count)}")
    columns, numbers = [], any(re.fullmatch(r"-?\d+(\.\d+)?", word) for word in missing)
    for name, dtype in frame.schema.items():
        value, is_text = pl.col(name), isinstance(dtype, pl.String | pl.Categorical | pl.Enum)
        if is_text:
            value, text = value.cast(pl.String).str.strip_chars(), frame[name].cast(pl.String).str
            if text.len_bytes().sum() > text.len_chars().sum():  # not all ASCII, which takes no time
                value = value.str.normalize("NFC")
        elif dtype.is_float():
            value = value.fill_nan(None)
        if is_text or (numbers and dtype.is_numeric()):
            word = as_words(value) if numbers else value
            value = pl.when(~word.is_in(["", "nan", "NaN", *missing])).then(value)
        columns.append(value.alias(name))
    return frame.with_columns(columns).rename(partial(normalize, "NFC"))


def as_words(values: Any) -> Any:
    """Return a series or expression as names: 1, +1 and 1.0 are all "1", because files differ in it."""
    return values.cast(pl.String).str.replace(r"^\+?(-?\d+)(?:\.0+)?$", "$1")
