"""Tables in files, CSV or Parquet: polars reads them, at once or in blocks of rows."""

from __future__ import annotations

import csv
import gzip
from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from descent.data.paths import NamedPath
from descent.data.table.columns import as_days, as_numbers
from descent.errors import first_line

if TYPE_CHECKING:
    import polars as pl

TYPED_ROWS = 10_000  # rows by which polars guesses the columns' types; a wrong guess is noticed and mended
NO_ROWS = "rows beneath the header, but there are none"
BLOCK = 1 << 24  # bytes of a CSV, or numbers of a Parquet file, that are in memory at once in prediction


def read_blocks(named: NamedPath, missing: Sequence[str]) -> Iterator[pl.DataFrame]:
    """Yield a file's rows in order, a few megabytes at a time, those of a CSV as text.

    Args:
        named: the file.
        missing: words that stand for no value.

    Raises:
        ConfigError: no such file, or none that can be read, or one without rows.
    """
    import polars as pl

    file = locate_table(named)
    try:
        if is_parquet(file):
            rows = max(1, BLOCK // max(1, len(pl.read_parquet_schema(file))))
            scan = pl.scan_parquet(file)
            total = scan.select(pl.len()).collect().item()
            for start in range(0, total, rows):
                yield scan.slice(start, rows).collect()
        else:
            total = 0
            header = read_header(file, named)
            settings = csv_settings(header, missing, ())
            with open_csv(file) as stream:
                for block in cut_at_rows(stream):
                    frame = pl.read_csv(BytesIO(header + block), infer_schema=False, **settings)
                    total += len(frame)
                    yield frame
        if total == 0:
            raise named.error(NO_ROWS)
    except (pl.exceptions.PolarsError, OSError, EOFError) as error:
        raise named.error(f"a table that polars can read ({explain(file, error)})") from error


def cut_at_rows(stream: IO[bytes]) -> Iterator[bytes]:
    """Yield what follows a CSV's header, cut at the end of a row: of a line after an even count of quotes."""
    stream.readline()
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


def read_whole(named: NamedPath, missing: Sequence[str], text: Sequence[str]) -> pl.DataFrame:
    """Return all rows of a file, each column of one type.

    Args:
        named: the file.
        missing: words that stand for no value.
        text: columns to keep as they are written.

    Raises:
        ConfigError: no such file, or none that can be read, or one without rows, or text in a number column.
    """
    import polars as pl

    file = locate_table(named)
    try:
        if is_parquet(file):
            frame = pl.read_parquet(file)
        else:
            settings = csv_settings(read_header(file, named), missing, text)
            try:
                frame = pl.read_csv(file, infer_schema_length=TYPED_ROWS, **settings)
            except pl.exceptions.ComputeError:  # a later row is of another type than the first ones
                frame = pl.read_csv(file, infer_schema=False, **settings)
    except pl.exceptions.PolarsError as error:
        raise named.error(f"a table that polars can read ({explain(file, error)})") from error
    if len(frame) == 0:
        raise named.error(NO_ROWS)
    return frame.with_columns(find_type(column, named) for column in frame if column.name not in text)


def locate_table(named: NamedPath) -> Path:
    """Return the path of a file that is there and not empty; else raise a `ConfigError`."""
    file = named.locate("file")
    if file.stat().st_size == 0:
        raise named.error("a table, but the file is empty")
    return file


def is_parquet(file: Path) -> bool:
    """Whether a file's name says that it is Parquet and not CSV."""
    return file.suffix in (".parquet", ".pq")


def open_csv(file: Path) -> IO[bytes]:
    """Open a CSV, which may be compressed by gzip, as bytes."""
    return gzip.open(file) if file.suffix == ".gz" else file.open("rb")  # type: ignore[return-value]


def read_header(file: Path, named: NamedPath) -> bytes:
    """Return a CSV's first line."""
    try:
        with open_csv(file) as stream:
            line = stream.readline(1 << 20)
        line.decode("utf-8")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise named.error(f"a CSV in UTF-8, or a Parquet file ({error})") from error
    if b"\0" in line or not line.strip():
        raise named.error("a CSV with a header, or a Parquet file")
    return line


def csv_settings(header: bytes, missing: Sequence[str], text: Sequence[str]) -> dict[str, Any]:
    """Return arguments of `polars.read_csv`."""
    import polars as pl

    separator = max(",;\t|", key=header.decode("utf-8").count)
    return {
        "separator": separator,
        "null_values": list(missing),
        "schema_overrides": dict.fromkeys(text, pl.String),
        "try_parse_dates": True,
    }


def find_type(column: pl.Series, named: NamedPath) -> pl.Series:
    """Return a column of text as the numbers or dates that it holds, and any other column as it is.

    Raises:
        ConfigError: nine values of ten or more are numbers, and the others are not.
    """
    import polars as pl

    known = len(column) - column.null_count()
    if column.dtype != pl.String or known == 0:
        return column
    first = column.drop_nulls().head(1000)
    for kind, convert in (("number", as_numbers), ("date", as_days)):
        if convert(first).null_count() > len(first) / 2:  # to try a million words for dates takes seconds
            continue
        values = convert(column)
        share = (len(column) - values.null_count()) / known
        if share == 1:
            return values if kind == "number" else column.str.to_datetime(time_unit="ms")
        if share >= 0.9:
            row = int((values.is_null() & column.is_not_null()).arg_max())  # type: ignore[arg-type]
            raise named.error(
                f"a {kind} in each row of column {column.name}, but row {row + 1:,} has {column[row]!r}; add"
                " it to data.missing, or the column to data.categories if it is text"
            )
    return column


def explain(file: Path, error: Exception) -> str:
    """Say why a file can not be read: its first row longer than the header, else the error's first line."""
    if "more fields" in str(error):
        with open_csv(file) as stream:
            header = stream.readline()
            delimiter = csv_settings(header, (), ())["separator"]
            lines = (line.decode("utf-8", "replace") for line in stream)
            columns = len(next(csv.reader([header.decode("utf-8", "replace")], delimiter=delimiter)))
            for number, values in enumerate(csv.reader(lines, delimiter=delimiter), 1):
                if len(values) > columns:
                    return f"row {number:,} has {len(values)} values, the header {columns}"
    return first_line(error)
