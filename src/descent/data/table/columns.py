"""Columns of a table as numbers: rules are fitted on the training rows and applied to any later row.

Polars computes them; `Encoder`, which is a part of the model, needs torch alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import pi
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from descent.data.paths import NamedPath
from descent.errors import nearest

if TYPE_CHECKING:  # a second of import that only runs with tables pay for
    import polars as pl

YEAR, WEEK, DAY = 365.2425, 7.0, 1.0  # periods of a date, in days


@dataclass
class Column:
    """How one column of a file becomes one number a row.

    - number: itself; NaN where it is missing. True is 1, a duration is its seconds.
    - date: days since 1970-01-01, with the time of day as a fraction.
    - category: its place in `words`; len(words) where it is missing; -1 where it was never seen in training.

    Attributes:
        name: in the file's header.
        kind: one of the three.
        fill: what stands for a missing number or date: the median of the training rows.
        flagged: values were missing in the training rows too, so that a feature of its own says where.
        words: the categories of the training rows, the most frequent first.
    """

    name: str
    kind: Literal["number", "date", "category"]
    fill: float = 0.0
    flagged: bool = False
    words: list[str] = field(default_factory=list)

    def to_numbers(self, series: pl.Series, file: NamedPath, first: int) -> Tensor:
        """Return one number a row, float32 `(rows,)`.

        Args:
            series: the column as it was read.
            file: that it was read from.
            first: number of the file's rows before these.

        Raises:
            ConfigError: a value of another kind than the column's, naming row and value.
        """
        import polars as pl

        if self.kind == "category":
            text = series.cast(pl.String)
            known = text.cast(pl.Enum(self.words), strict=False).to_physical().cast(pl.Float32)
            codes = known.fill_null(-1.0)
            if self.flagged:
                codes = codes.zip_with(text.is_not_null(), pl.Series([float(len(self.words))]))
            return codes.to_torch()
        values = as_days(series) if self.kind == "date" else as_numbers(series)
        numbers = values.cast(pl.Float32)
        wrong = (values.is_null() & series.is_not_null()) | numbers.is_infinite().fill_null(False)
        if wrong.any():
            row = int(wrong.arg_max())  # type: ignore[arg-type]
            raise file.error(
                f"a {self.kind} in each row of column {self.name}, but row {first + row + 1:,} has"
                f" {series[row]!r}"
            )
        return numbers.fill_null(float("nan")).to_torch()


def as_numbers(series: pl.Series) -> pl.Series:
    """Return the values as Float64; null where one is missing or no number."""
    import polars as pl

    if series.dtype == pl.String:
        series = series.str.strip_chars()
    elif series.dtype == pl.Duration:
        return series.dt.total_microseconds() / 1e6
    elif not (series.dtype.is_numeric() or series.dtype in (pl.Boolean, pl.Null)):
        return pl.Series(series.name, [None] * len(series), pl.Float64)
    return series.cast(pl.Float64, strict=False)


def as_days(series: pl.Series) -> pl.Series:
    """Return days since 1970-01-01, Float64; null where a value is missing or no date."""
    import polars as pl

    if series.dtype == pl.String:
        try:
            series = series.str.to_datetime(strict=False, time_unit="ms")
        except pl.exceptions.PolarsError:  # not one value of a form that it knows
            series = pl.Series(series.name, [None] * len(series), pl.Datetime("ms"))
    if not series.dtype.is_temporal() or series.dtype in (pl.Duration, pl.Time):
        return pl.Series(series.name, [None] * len(series), pl.Float64)
    return series.dt.epoch("ms") / 86_400_000


def fit_columns(
    frame: pl.DataFrame, categories: Sequence[str], max_categories: int
) -> tuple[list[Column], dict[str, str]]:
    """Return the rules for the columns of the training rows, and by name why others are left out.

    Args:
        frame: the training rows, without targets.
        categories: columns whose numbers are names, such as postcodes.
        max_categories: words of a text column that are told apart; rarer ones count as never seen.
    """
    import polars as pl

    columns: list[Column] = []
    left_out: dict[str, str] = {}
    for series in frame:
        name, dtype, values = series.name, series.dtype, series.drop_nulls()
        flagged = len(values) < len(series)
        text = name in categories or isinstance(dtype, pl.String | pl.Categorical | pl.Enum)
        distinct = values.n_unique() if text else 0
        if dtype.is_nested() or dtype in (pl.Time, pl.Binary, pl.Object):
            left_out[name] = f"of type {dtype}"
        elif len(values) == 0:
            left_out[name] = "no values"
        elif not flagged and values.min() == values.max():
            left_out[name] = f"{values[0]} in every row"
        elif text and distinct > max_categories and distinct > len(values) / 2:
            left_out[name] = f"{distinct:,} different texts in {len(values):,} rows"
        elif text:
            counts = values.cast(pl.String).value_counts().sort(["count", name], descending=[True, False])
            columns.append(Column(name, "category", 0.0, flagged, counts[name][:max_categories].to_list()))
        else:
            kind: Literal["date", "number"] = "date" if dtype in (pl.Date, pl.Datetime) else "number"
            numbers = as_days(series) if kind == "date" else as_numbers(series).fill_nan(None)
            columns.append(Column(name, kind, float(numbers.median()), numbers.null_count() > 0))  # type: ignore[arg-type]
    return columns, left_out


def to_inputs(columns: Sequence[Column], frame: pl.DataFrame, file: NamedPath, first: int = 0) -> Tensor:
    """Return the rows of a file as `Encoder` takes them, float32 `(rows, columns)`.

    Args:
        columns: the rules.
        frame: rows of a file; columns that have no rule are passed over.
        file: that they were read from.
        first: number of the file's rows before these.

    Raises:
        ConfigError: a column is missing, or a value is of another kind than its column's.
    """
    inputs = torch.empty(len(frame), len(columns))
    for index, column in enumerate(columns):
        require_column(column.name, frame, file, f"a column {column.name}")
        inputs[:, index] = column.to_numbers(frame[column.name], file, first)
    return inputs


def require_column(name: str, frame: pl.DataFrame, file: NamedPath, expected: str) -> None:
    """Raise a `ConfigError` that tells the nearest column, unless the file has one of this name."""
    if name not in frame.columns:
        error = file.error(expected)
        error.nearest = nearest(name, frame.columns)
        raise error


def name_classes(column: pl.Series) -> pl.Series:
    """Return class targets as text: "1" for 1.0 too, for that is how 1 is read beside missing values."""
    import polars as pl

    if column.dtype.is_float() and bool((column == column.round(0)).all()):
        column = column.cast(pl.Int64)
    return column.cast(pl.String)


def to_targets(
    frame: pl.DataFrame, targets: Sequence[str], classes: Sequence[str], file: NamedPath, first: int = 0
) -> Tensor:
    """Return class indices, int64 `(rows,)`, or values, float32 `(rows, targets)`; -1 or NaN if missing.

    Args:
        frame: rows of a file.
        targets: the columns to predict.
        classes: names of the classes of the one target; empty in regression.
        file: that they were read from.
        first: number of the file's rows before these.

    Raises:
        ConfigError: a column is missing, or a value is no number or none of the classes, naming its row.
    """
    import polars as pl

    for name in targets:
        require_column(name, frame, file, f"the target's column {name}")
    if not classes:
        values = [Column(name, "number").to_numbers(frame[name], file, first) for name in targets]
        return torch.stack(values, 1)
    names = name_classes(frame[targets[0]])
    indices = names.cast(pl.Enum(classes), strict=False).to_physical().cast(pl.Int64)
    unseen = indices.is_null() & names.is_not_null()
    if unseen.any():
        row = int(unseen.arg_max())  # type: ignore[arg-type]
        raise file.error(
            f"one of the classes {', '.join(classes[:20])} in column {targets[0]}, but row"
            f" {first + row + 1:,} has {names[row]!r}"
        )
    return indices.fill_null(-1).to_torch()


class Encoder(nn.Module):
    """From one number a column to the features that a model sees.

    Numbers and dates come first, and a missing one is the training rows' median. Columns with missing values
    in training have a feature that is 1 where the value is missing. Then come sine and cosine of a date's
    place in the year, the week and the day, and for each category a feature that is 1 where it is. All of
    them are 0 for a category that training never saw.

    Args:
        columns: the rules, in the order of the inputs.

    Attributes:
        scaled: number of features that can be of any size, which come first; the others are from -1 to 1.
    """

    numbers: Tensor
    fill: Tensor
    flagged: Tensor
    dates: Tensor
    periods: Tensor
    categories: Tensor
    codes: Tensor

    def __init__(self, columns: Sequence[Column]) -> None:
        super().__init__()
        numbers = [i for i, column in enumerate(columns) if column.kind != "category"]
        words = [
            (i, code)
            for i, column in enumerate(columns)
            if column.kind == "category"
            for code in range(len(column.words) + column.flagged)
        ]
        self.scaled = len(numbers)

        def constant(name: str, values: list[int] | list[float], dtype: torch.dtype) -> None:
            self.register_buffer(name, torch.tensor(values, dtype=dtype), persistent=False)

        constant("numbers", numbers, torch.int64)
        constant("fill", [columns[i].fill for i in numbers], torch.float32)
        constant("flagged", [k for k, i in enumerate(numbers) if columns[i].flagged], torch.int64)
        constant("dates", [k for k, i in enumerate(numbers) if columns[i].kind == "date"], torch.int64)
        constant("periods", [YEAR, WEEK, DAY], torch.float32)
        constant("categories", [i for i, _ in words], torch.int64)
        constant("codes", [float(code) for _, code in words], torch.float32)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the features `(rows, features)` of inputs `(rows, columns)` as of `to_inputs`, float32."""
        numbers = inputs[:, self.numbers]
        missing = numbers.isnan()
        numbers = torch.where(missing, self.fill, numbers)
        parts = [numbers, missing[:, self.flagged].to(inputs.dtype)]
        if len(self.dates):
            turns = numbers[:, self.dates].unsqueeze(2) / self.periods
            angles = 2 * pi * (turns - turns.floor()).flatten(1)
            parts += [angles.sin(), angles.cos()]
        parts.append(inputs[:, self.categories].eq(self.codes).to(inputs.dtype))
        return torch.cat(parts, 1)
