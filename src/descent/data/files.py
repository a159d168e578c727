"""Tables in files, CSV or Parquet: read by polars, at once or in blocks of rows."""

from __future__ import annotations

import csv
import gzip
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from io import BytesIO
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from torch import Tensor

from descent.data.columns import Column, Encoder, as_days, as_numbers, to_inputs, to_targets
from descent.errors import ConfigError, nearest

if TYPE_CHECKING:
    import polars as pl

TYPED_ROWS = 10_000  # rows by which polars guesses the columns' types; a wrong guess is noticed and mended
BLOCK = 1 << 24  # bytes of a CSV, or numbers of a Parquet file, that are in memory at once in prediction


class TableReader:
    """Turns files into what a model takes, by the rules that were fitted in training.

    Args:
        path: the file that the rules were fitted on.
        targets: the columns to predict.
        missing: words that stand for no value.
        columns: the rules.
    """

    def __init__(self, path: str, targets: list[str], missing: list[str], columns: list[Column]) -> None:
        self.path, self.targets, self.missing, self.columns = path, targets, missing, columns
        self.unseen: Counter[str] = Counter()

    def state(self) -> dict[str, Any]:
        """As plain values, for a checkpoint."""
        columns = [asdict(column) for column in self.columns]
        return {
            "kind": "table",
            "path": self.path,
            "targets": self.targets,
            "missing": self.missing,
            "columns": columns,
        }

    @classmethod
    def of(cls, state: dict[str, Any]) -> TableReader:
        return cls(state["path"], state["targets"], state["missing"], [Column(**c) for c in state["columns"]])

    def encoder(self) -> Encoder:
        return Encoder(self.columns)

    def read(self, path: str, source: str) -> Iterator[tuple[pl.DataFrame, Tensor]]:
        """Blocks of a file's rows, in order, as they are and as float32 inputs `(rows, columns)`.

        Raises:
            ConfigError: no such file, a column is missing, or a value is of another kind than its column's.
        """
        first = 0
        for frame in blocks(path, source, self.missing):
            inputs = to_inputs(self.columns, frame, source, first)
            for column, values in zip(self.columns, inputs.T, strict=True):
                if column.kind == "category":
                    self.unseen[column.name] += int((values < 0).sum())
            yield frame, inputs
            first += len(frame)

    def notes(self) -> list[str]:
        """What is to be said of the rows that were read."""
        return [
            f"column {name}: {n:,} values are none of the words that training knew"
            for name, n in self.unseen.items()
            if n
        ]

    def read_with_targets(
        self, path: str, source: str, classes: Sequence[str]
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Blocks of inputs, and of class indices, int64 `(rows,)`, or values, float32 `(rows, targets)`.

        Rows without a target are left out.

        Raises:
            ConfigError: beside those of `read`, a target that is no number, or none of the classes.
        """
        first = 0
        for frame, inputs in self.read(path, source):
            targets = to_targets(frame, self.targets, classes, source, first)
            known = targets >= 0 if classes else ~targets.isnan().any(1)
            yield inputs[known], targets[known]
            first += len(frame)


def blocks(path: str, source: str, missing: Sequence[str]) -> Iterator[pl.DataFrame]:
    """A file's rows in order, a few megabytes at a time, those of a CSV as text; arguments as of `read`."""
    import polars as pl

    file = existing(path, source)
    try:
        if is_parquet(file):
            rows = max(1, BLOCK // max(1, len(pl.read_parquet_schema(file))))
            scan = pl.scan_parquet(file)
            total = scan.select(pl.len()).collect().item()
            for start in range(0, total, rows):
                yield scan.slice(start, rows).collect()
        else:
            total = 0
            header = header_of(file, source)
            settings = csv_settings(header, missing, ())
            with open_csv(file) as stream:
                for block in whole_rows(stream):
                    frame = pl.read_csv(BytesIO(header + block), infer_schema=False, **settings)
                    total += len(frame)
                    yield frame
        if total == 0:
            raise ConfigError(f"{source}: expected rows beneath the header, but there are none")
    except (pl.exceptions.PolarsError, OSError, EOFError) as error:
        raise ConfigError(
            f"{source}: expected a table that polars can read ({reason(file, error)})"
        ) from error


def whole_rows(stream: IO[bytes]) -> Iterator[bytes]:
    """What follows a CSV's header, cut at the end of a row: a line's end with even quotes before."""
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


def read(path: str, source: str, missing: Sequence[str], text: Sequence[str]) -> pl.DataFrame:
    """All rows of a file, each column of one type.

    Args:
        path: of the file.
        source: what an error begins with, such as "path=houses.csv".
        missing: words that stand for no value.
        text: columns to keep as they are written.

    Raises:
        ConfigError: no such file, or none that can be read, or one without rows, or text in a number column.
    """
    import polars as pl

    file = existing(path, source)
    try:
        if is_parquet(file):
            frame = pl.read_parquet(file)
        else:
            settings = csv_settings(header_of(file, source), missing, text)
            try:
                frame = pl.read_csv(file, infer_schema_length=TYPED_ROWS, **settings)
            except pl.exceptions.ComputeError:  # a later row is of another type than the first ones
                frame = pl.read_csv(file, infer_schema=False, **settings)
    except pl.exceptions.PolarsError as error:
        raise ConfigError(
            f"{source}: expected a table that polars can read ({reason(file, error)})"
        ) from error
    if len(frame) == 0:
        raise ConfigError(f"{source}: expected rows beneath the header, but there are none")
    return frame.with_columns(typed(column, source) for column in frame if column.name not in text)


def existing(path: str, source: str) -> Path:
    file = Path(path).expanduser()
    if not file.is_file():
        siblings = [p.name for p in file.parent.glob("*") if p.is_file()] if file.parent.is_dir() else []
        kind = "a file, not a folder" if file.is_dir() else "a file that exists"
        raise ConfigError(f"{source}: expected {kind}{nearest(file.name, siblings)}")
    if file.stat().st_size == 0:
        raise ConfigError(f"{source}: expected a table, but the file is empty")
    return file


def is_parquet(file: Path) -> bool:
    return file.suffix in (".parquet", ".pq")


def open_csv(file: Path) -> IO[bytes]:
    return gzip.open(file) if file.suffix == ".gz" else file.open("rb")  # type: ignore[return-value]


def header_of(file: Path, source: str) -> bytes:
    """A CSV's first line."""
    try:
        with open_csv(file) as stream:
            line = stream.readline(1 << 20)
        line.decode("utf-8")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise ConfigError(f"{source}: expected a CSV in UTF-8, or a Parquet file ({error})") from error
    if b"\0" in line or not line.strip():
        raise ConfigError(f"{source}: expected a CSV with a header, or a Parquet file")
    return line


def csv_settings(header: bytes, missing: Sequence[str], text: Sequence[str]) -> dict[str, Any]:
    """Arguments of `polars.read_csv`."""
    import polars as pl

    separator = max(",;\t|", key=header.decode("utf-8").count)
    return {
        "separator": separator,
        "null_values": list(missing),
        "schema_overrides": dict.fromkeys(text, pl.String),
        "try_parse_dates": True,
    }


def typed(column: pl.Series, source: str) -> pl.Series:
    """A column of text as the numbers or dates that it holds; any other column as it is.

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
            raise ConfigError(
                f"{source}: expected a {kind} in each row of column {column.name}, but row {row + 1:,} has"
                f" {column[row]!r}; add it to data.missing, or the column to data.categories if it is text"
            )
    return column


def reason(file: Path, error: Exception) -> str:
    """Why a file can not be read: the first row longer than the header, else the error's first line."""
    if "more fields" in str(error):
        with open_csv(file) as stream:
            header = stream.readline()
            delimiter = csv_settings(header, (), ())["separator"]
            lines = (line.decode("utf-8", "replace") for line in stream)
            columns = len(next(csv.reader([header.decode("utf-8", "replace")], delimiter=delimiter)))
            for number, values in enumerate(csv.reader(lines, delimiter=delimiter), 1):
                if len(values) > columns:
                    return f"row {number:,} has {len(values)} values, the header {columns}"
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
