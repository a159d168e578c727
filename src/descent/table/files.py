"""Tables in files, CSV or Parquet, and in frames: polars reads them in blocks of rows, a CSV as text."""

from __future__ import annotations

import codecs
import csv
import gzip
import re
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO, StringIO
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from descent.data.named_path import NamedPath
from descent.errors import first_line

if TYPE_CHECKING:
    import polars as pl

BLOCK = 1 << 24  # bytes of a CSV, or numbers of a Parquet file, that are read at once
NOTHING = ("", "nan", "NaN")  # texts that stand for no value, whatever a person says
HIDDEN = "\x1f"  # stands for a quote within a name
LONGEST = 1 << 20  # bytes of a header
QUOTED, OPEN = (
    re.compile(rb'"[^"]*"'),
    re.compile(rb'(^|[,;\t|])"[^"]*$'),
)  # a name in quotes, and its beginning
MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}


@dataclass
class Format:
    """How the text of files is written.

    Attributes:
        missing: words that stand for no value.
        encoding: of a CSV that is not in UTF-8 and begins with no mark of its encoding.
        decimal, dates: what a person said of numbers and dates, as `table` takes it.
        separator: of a CSV whose header has only one column.
    """

    missing: list[str]
    encoding: str = "utf-8"
    decimal: str = "auto"
    dates: str = "auto"
    separator: str = ","


def read_blocks(named: NamedPath, format: Format) -> Iterator[pl.DataFrame]:
    """Yield a file's rows in order, a few megabytes at a time, those of a CSV as text, as of `tidy`.

    Raises:
        ConfigError: no such file, or none that can be read, or one without rows.
    """
    import polars as pl

    file, total = locate_table(named), 0
    try:
        blocks = read_parquet(file, format) if is_parquet(file) else read_csv(file, named, format)
        for frame in blocks:
            total += len(frame)
            yield frame
    except (pl.exceptions.PolarsError, csv.Error, OSError, EOFError, UnicodeError) as error:
        raise named.error(f"a table that polars can read ({explain_table(named, format, error)})") from error
    if total == 0:
        raise named.error("rows beneath the header, but there are none")


def read_whole(named: NamedPath, format: Format) -> pl.DataFrame:
    """Return all rows of a file; what is read, and what is raised, as of `read_blocks`."""
    import polars as pl

    return pl.concat(list(read_blocks(named, format)), rechunk=False)


def read_parquet(file: Path, format: Format) -> Iterator[pl.DataFrame]:
    """Yield the rows of a Parquet file, as of `tidy`."""
    import polars as pl

    scan = pl.scan_parquet(file)
    rows = max(1, BLOCK // max(1, len(scan.collect_schema())))
    for start in range(0, scan.select(pl.len()).collect().item(), rows):
        yield tidy(scan.slice(start, rows).collect(), format.missing)


def read_csv(file: Path, named: NamedPath, format: Format) -> Iterator[pl.DataFrame]:
    """Yield the rows of a CSV, every column as text, as of `tidy`."""
    import polars as pl

    missing = [*NOTHING, *format.missing]
    with open_csv(file, format) as stream:
        header = read_header(stream, named)
        separator = find_separator(header, format)
        for block in cut_at_rows(stream):
            rows = BytesIO(hide_quotes(header, separator) + block)
            frame = pl.read_csv(rows, infer_schema=False, separator=separator, null_values=missing)
            frame = frame.rename(lambda name: name.replace(HIDDEN, '"'))
            # a million rows of numbers, without a space anywhere, are not looked through for spaces
            spaced = any(space in block for space in (b" ", b"\t") if space != separator.encode())
            yield tidy(frame, format.missing) if spaced or not block.isascii() else frame


def hide_quotes(header: bytes, separator: str) -> bytes:
    """Return a CSV's header with another mark for a quote within a name, which polars takes for its end."""
    if b'"' not in QUOTED.sub(b"", header) and b'""' not in header:
        return header
    names = next(csv.reader(StringIO(header.decode("utf-8"), newline=""), delimiter=separator))
    return separator.join(f'"{name.replace(chr(34), HIDDEN)}"' for name in names).encode() + b"\n"


def tidy(frame: pl.DataFrame, missing: list[str]) -> pl.DataFrame:
    """Return rows of any source with null for what is missing, and text without spaces around it."""
    import polars as pl

    columns, numbers = [], [float(word) for word in missing if re.fullmatch(r"-?\d+(\.\d+)?", word)]
    for name, dtype in frame.schema.items():
        values = pl.col(name)
        if isinstance(dtype, pl.String | pl.Categorical | pl.Enum):
            values = values.cast(pl.String).str.strip_chars()
            columns.append(pl.when(values.is_in([*NOTHING, *missing]).not_()).then(values).alias(name))
        elif dtype.is_numeric():
            values = values.fill_nan(None) if dtype.is_float() else values
            unknown = values.cast(pl.Float64).is_in(numbers) if numbers else pl.lit(False)
            columns.append(pl.when(unknown.not_()).then(values).alias(name))
    return frame.with_columns(columns)


def cut_at_rows(stream: IO[bytes]) -> Iterator[bytes]:
    """Yield what follows a CSV's header, cut at the end of a row: of a line after an even count of quotes."""
    rest = b""
    while chunk := stream.read(BLOCK):
        rest += chunk
        end = last = rest.rfind(b"\n") + 1
        quotes = rest.count(b'"', 0, end)
        while end and quotes % 2:
            before = rest.rfind(b"\n", 0, end - 1) + 1
            quotes -= rest.count(b'"', before, end)
            end = before
        if not end and len(rest) > 4 * BLOCK:  # a lone quote, such as that of 5", and no text of many lines
            end = last
        if end:
            yield rest[:end]
            rest = rest[end:]
    if rest:
        yield rest


def locate_table(named: NamedPath) -> Path:
    """Return the path of a file that is there and not empty; else raise a `ConfigError`."""
    file = named.locate("file")
    if not file.is_file():
        raise named.error("a regular file, which can be read twice, and no pipe or device")
    if file.stat().st_size == 0:
        raise named.error("a table, but the file is empty")
    return file


def is_parquet(file: Path) -> bool:
    """Whether a file's name says that it is Parquet and not CSV."""
    return file.suffix in (".parquet", ".pq")


def open_csv(file: Path, format: Format) -> IO[bytes]:
    """Open a CSV, which may be compressed by gzip, as bytes in UTF-8."""
    opened: Any = gzip.open if file.suffix == ".gz" else open
    with opened(file, "rb") as stream:
        start = stream.read(BLOCK)
    marked = [encoding for mark, encoding in MARKS.items() if start.startswith(mark)]
    if not marked and is_utf8(start, format.encoding):
        return opened(file, "rb")
    return codecs.EncodedFile(opened(file, "rb"), "utf-8", [*marked, format.encoding][0])  # type: ignore[return-value]


def is_utf8(start: bytes, encoding: str) -> bool:
    """Whether a file that begins with these bytes is to be read as UTF-8, whatever the encoding says.

    Other text hardly ever is valid UTF-8. Bytes of ASCII alone do not tell, and then it is as it is said.
    """
    if b"\0" in start or encoding == "utf-8":
        return encoding == "utf-8"
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(start)
    except UnicodeDecodeError:
        return False
    return not text.isascii()


def read_header(stream: IO[bytes], named: NamedPath) -> bytes:
    """Return a CSV's first line, in UTF-8; a name in quotes may go on in the lines after it."""
    try:
        line = stream.readline(LONGEST)
        while OPEN.search(QUOTED.sub(b"", line)) and len(line) < LONGEST:
            more = stream.readline(LONGEST)
            if not more:
                break
            line += more
        line.decode("utf-8")
    except (OSError, EOFError, UnicodeError) as error:
        raise named.error(f"a CSV in UTF-8 or as data.encoding says, or a Parquet file ({error})") from error
    if b"\0" in line or not line.strip():
        raise named.error("a CSV with a header, or a Parquet file; data.encoding says what is not UTF-8")
    return line


def find_separator(header: bytes, format: Format) -> str:
    """Return what is most often between the names of a CSV's first line."""
    bare = QUOTED.sub(b"", header).decode("utf-8")
    best = max(",;\t|", key=bare.count)
    return best if best in bare else format.separator


def separator_of(named: NamedPath, format: Format) -> str:
    """Return the separator of a CSV, and "," of a Parquet file; errors as of `read_blocks`."""
    file = locate_table(named)
    if is_parquet(file):
        return format.separator
    with open_csv(file, format) as stream:
        return find_separator(read_header(stream, named), format)


def explain_table(named: NamedPath, format: Format, error: Exception) -> str:
    """Say why a file can not be read: its first row longer than the header, else the error's first line."""
    if "more fields" in str(error):
        with open_csv(locate_table(named), format) as stream:
            header = read_header(stream, named)
            delimiter = find_separator(header, format)
            lines = (line.decode("utf-8", "replace") for line in stream)
            columns = len(next(csv.reader([header.decode("utf-8")], delimiter=delimiter)))
            for number, values in enumerate(csv.reader(lines, delimiter=delimiter), 1):
                if len(values) > columns:
                    return f"row {number:,} has {len(values)} values, the header {columns}"
    if isinstance(error, UnicodeError) or "utf-8" in str(error).lower():
        return f"{first_line(error)}; data.encoding says what it is in, such as latin-1, utf-16 or cp949"
    return first_line(error)
