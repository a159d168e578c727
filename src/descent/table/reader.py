"""Reads tables for a model, by rules fitted on the training rows: each column becomes one number per row."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import pi
from typing import Any

import polars as pl
import torch
from torch import Tensor, nn

from descent.data.named_path import NamedPath
from descent.errors import ConfigError
from descent.table.files import ORDERS, Format, as_words, read_blocks, tidy
from descent.task import Precise

DAY = 86_400.0  # seconds
YEARS = (-30_610_224_000.0, 253_402_300_799.0)  # 1000 to 9999, in seconds; "20" is no year of "%Y"
ISO = ["%Y-%m-%d", "%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%d %H:%M", "%Y-%m-%d %H:%M:%S%.f%#z"]


@dataclass
class Column:
    """How one column of a file becomes one number per row.

    Attributes:
        kind: "number" (false is 0, true 1), "date" (seconds since 1970-01-01) or, of a target, "class" (the
            place in `words`), NaN if missing; or "category", the place in `words`, len(words)
            if it is missing, -1 if training never saw it.
        fill: replaces a missing number or date: the median of the training rows.
        flagged: values were missing in the training rows too, so a separate feature marks them.
        words: the classes, or the categories of the training rows, the most frequent first.
        form: `Format.decimal` of a number, `Format.dates` of a date.
    """

    name: str
    kind: str
    fill: float = 0.0
    flagged: bool = False
    words: list[str] = field(default_factory=list)
    form: str = "auto"

    def read(self, series: pl.Series) -> pl.Series:
        """Return the numbers, Float64; null where a value is missing, of another kind, or an unknown word."""
        if self.words:
            words = pl.Enum(self.words)
            return as_words(series).cast(words, strict=False).to_physical().cast(pl.Float64)
        return as_seconds(series, self.form) if self.kind == "date" else as_numbers(series, self.form)


def as_numbers(series: pl.Series, decimal: str = "point") -> pl.Series:
    """Return the values as Float64; null if one is missing or not a number."""
    if series.dtype == pl.String:
        series = series.str.to_lowercase().replace(["false", "true"], ["0", "1"])
        if decimal == "comma":  # then a point is not part of a number
            series = series.str.replace(".", "?", literal=True).str.replace(",", ".", literal=True)
    if series.dtype.is_numeric() or series.dtype in (pl.String, pl.Boolean):
        return series.cast(pl.Float64, strict=False)
    return pl.repeat(None, len(series), dtype=pl.Float64, eager=True)


def as_seconds(series: pl.Series, dates: str) -> pl.Series:
    """Return seconds since 1970-01-01, Float64, of values in the form `Format.dates`; null if none."""
    seconds, forms = pl.repeat(None, len(series), dtype=pl.Float64, eager=True), []
    if series.dtype in (pl.Date, pl.Datetime):
        seconds = series.dt.epoch("us") / 1e6
    elif "%" in dates and (series.dtype == pl.String or series.dtype.is_integer()):  # such as 20200113
        series, forms = series.cast(pl.String), [dates]
    elif series.dtype == pl.String:
        day = r"^(\d{1,2})[./-](\d{1,2})[./-](\d{4})\b"
        series = series.str.replace(day, ORDERS[dates]) if dates in ORDERS else series
        series = series.str.replace(r"^(\d{4})[./-](\d{1,2})[./-](\d{1,2})[T ]?", "$1-$2-$3 ")
        series, forms = series.str.replace(r"\s*Z?$", ""), ISO
    for form in forms:
        read = series.str.to_datetime(form, time_unit="us", strict=False).dt.epoch("us") / 1e6
        seconds = seconds.zip_with(seconds.is_not_null(), read)
    return seconds.set(~seconds.is_between(*YEARS).fill_null(True), None)


def to_numbers(columns: Sequence[Column], frame: pl.DataFrame, file: NamedPath, first: int = 0) -> Tensor:
    """Return float64 `(rows, columns)` of rows after the `first`; a ConfigError if a value does not fit."""
    numbers = torch.empty(len(frame), len(columns), dtype=torch.float64)
    for place, column in enumerate(columns):
        name, words = column.name, column.words
        if name not in frame.columns:
            expected = f"a column {name}"
            raise ConfigError(file.key, file.path, expected=expected, choices=frame.columns, meant=name)
        series, read = frame[name], column.read(frame[name])
        if column.kind == "category":
            read = read.fill_null(-1.0).set(series.is_null(), float(len(words)))
        wrong = (read.is_null() & series.is_not_null()) | read.is_infinite()
        if wrong.any():
            row = wrong.arg_true()[0]
            where = f"in each row of column {name}, but row {first + row + 1:,} has"
            kind = f"one of {', '.join(words[:20])}" if words else f"a {column.kind}"
            hint = (
                ""
                if words
                else "; data.missing lists marks of missing values, data.categories columns of text"
            )
            raise file.error(f"{kind} {where} {series.to_physical()[row]!r:.200}{hint}")
        numbers[:, place] = read.fill_null(float("nan")).to_torch()
    return numbers


class Encoder(Precise):
    """Turns one number for each column into the features that a model sees.

    First come numbers, booleans and dates, a missing one as `Column.fill`; then 1 where a value is missing,
    of the flagged ones; sine and cosine of a date's place in the year, the week and the day; and a 1 for each
    category where it is. The first `scaled` features are of any size; the others are from -1 to 1.
    """

    def __init__(self, columns: Sequence[Column]) -> None:
        super().__init__()
        numbers = [i for i, column in enumerate(columns) if column.kind != "category"]
        words = [len(c.words) + c.flagged if c.kind == "category" else 0 for c in columns]
        self.scaled = len(numbers)
        self.numbers = constant(numbers)
        self.fill = constant([columns[i].fill for i in numbers], torch.float64)
        self.flagged = constant([k for k, i in enumerate(numbers) if columns[i].flagged])
        self.dates = constant([k for k, i in enumerate(numbers) if columns[i].kind == "date"])
        self.periods = constant([365.2425 * DAY, 7 * DAY, DAY], torch.float64)
        self.categories = constant([i for i, count in enumerate(words) for _ in range(count)])
        self.codes = constant([code for count in words for code in range(count)])

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the features `(rows, features)` of inputs `(rows, columns)` of a `TableReader`, float64."""
        numbers = inputs[:, self.numbers]
        missing = numbers.isnan()
        numbers = torch.where(missing, self.fill, numbers)
        angles = 2 * pi * (numbers[:, self.dates].unsqueeze(2) / self.periods).frac().flatten(1)
        words = inputs[:, self.categories].eq(self.codes)
        parts = (numbers, missing[:, self.flagged], angles.sin(), angles.cos(), words)
        return torch.cat([part.to(numbers.dtype) for part in parts], 1)


def constant(values: Sequence[float], dtype: torch.dtype = torch.int64) -> nn.Buffer:
    """Return a tensor that goes where its module goes, and is not in its state."""
    return nn.Buffer(torch.tensor(values, dtype=dtype), persistent=False)


@dataclass
class TableReader:
    """Reads CSV and Parquet files, and frames; `path` is the file that its rules were fitted on."""

    path: str
    format: Format
    goals: list[Column]
    columns: list[Column]
    kind: str = "table"

    def __post_init__(self) -> None:
        self.targets = [goal.name for goal in self.goals]
        self.unseen = Counter[str]()

    @classmethod
    def from_description(cls, values: Mapping[str, Any]) -> "TableReader":
        """Return the reader from its fields as plain values."""
        goals, columns = ([Column(**column) for column in values[part]] for part in ("goals", "columns"))
        return cls(values["path"], Format(**values["format"]), goals, columns)

    def encoder(self) -> Encoder:
        """Return the module that turns columns into features."""
        return Encoder(self.columns)

    def read(self, file: NamedPath) -> Iterator[tuple[pl.DataFrame, Tensor]]:
        """Yield blocks of rows, in order, and their inputs from `take`; see `read_blocks` for errors."""
        for first, frame in read_blocks(file, self.format):
            yield frame, self.take(frame, file, first)

    def read_frame(self, frame: pl.DataFrame) -> tuple[pl.DataFrame, Tensor]:
        """Return the same of a frame."""
        frame = tidy(frame, self.format.missing)
        return frame, self.take(frame, NamedPath("input", "a frame"))

    def read_with_targets(self, file: NamedPath, classes: Sequence[str]) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield blocks of inputs and targets, from `take_targets`, of the rows that have a target."""
        for first, frame in read_blocks(file, self.format):
            targets, known = self.take_targets(frame, file, first)
            yield self.take(frame, file, first)[known], targets[known]

    def take(self, frame: pl.DataFrame, file: NamedPath, first: int = 0) -> Tensor:
        """Return the inputs of rows as from `to_numbers`, and count categories that training never saw."""
        inputs = to_numbers(self.columns, frame, file, first)
        for column, values in zip(self.columns, inputs.T, strict=True):
            self.unseen[column.name] += int((values < 0).sum()) if column.words else 0
        return inputs

    def take_targets(self, frame: pl.DataFrame, file: NamedPath, first: int = 0) -> tuple[Tensor, Tensor]:
        """Return classes, int64 `(rows,)`, or values, float64 `(rows, targets)`, and which rows have them."""
        values = to_numbers(self.goals, frame, file, first)
        targets, known = values.nan_to_num(), ~values.isnan().any(1)
        return targets[:, 0].long() if self.goals[0].kind == "class" else targets, known

    def notes(self) -> list[str]:
        """Return a line for each column with categories that training never saw."""
        line = "column {}: {:,} values were not seen in training"
        return [line.format(name, count) for name, count in self.unseen.items() if count]

    def name_classes(self, classes: Sequence[str]) -> pl.Series:
        """Return classes as the values that they are in a table: whole numbers, true and false, or text."""
        names = pl.Series(classes, dtype=pl.String)
        numbers = names.cast(pl.Int64, strict=False)
        if numbers.cast(pl.String).equals(names):
            return numbers
        return names == "true" if {*classes} == {"false", "true"} else names
