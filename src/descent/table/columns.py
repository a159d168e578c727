"""Columns of a table as numbers, by rules that `fitting` found in the training rows; they hold ever after."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from descent.data.named_path import NamedPath
from descent.data.table.forms import TRUTHS, as_days, as_numbers, as_truths, as_words
from descent.errors import nearest

if TYPE_CHECKING:  # a second of import that only runs with tables pay for
    import polars as pl


@dataclass
class Column:
    """How one column of a file becomes one number a row.

    - number: itself; NaN where it is missing. A duration is its seconds.
    - truth: 1 where it is true, 0 where it is false; NaN where it is missing.
    - date: days since 1970-01-01, with the time of day as a fraction.
    - category: its place in `words`; len(words) where it is missing; -1 where it was never seen in training.

    Attributes:
        name: in the file's header.
        kind: one of the four.
        fill: what stands for a missing number or date: the median of the training rows.
        flagged: values were missing in the training rows too, so that a feature of its own says where.
        words: the categories of the training rows, the most frequent first; or the classes of a target.
        decimal, sign: of numbers in text, as of `forms.as_numbers`.
        dates: how dates are written in text, as of `forms.as_days`.
    """

    name: str
    kind: Literal["number", "truth", "date", "category"]
    fill: float = 0.0
    flagged: bool = False
    words: list[str] = field(default_factory=list)
    decimal: str = ""
    sign: str = ""
    dates: str = "iso"

    def to_numbers(self, series: pl.Series, file: NamedPath, first: int = 0) -> Tensor:
        """Return one number a row, float32 `(rows,)`.

        Args:
            series: the column as it was read.
            file: that it was read from.
            first: number of the file's rows before these.

        Raises:
            ConfigError: a value of another kind than the column's, naming row and value.
        """
        if self.kind == "category":
            return self.find_places(series)
        return self.check(self.read(series), series, file, first)

    def find_places(self, series: pl.Series) -> Tensor:
        """Return the place of each category in `words`, float32 `(rows,)`."""
        import polars as pl

        text, words = as_words(series), self.words
        if sorted(word.lower() for word in words) == TRUTHS:  # True here may be true there
            text, words = text.str.to_lowercase(), [word.lower() for word in words]
        places = text.cast(pl.Enum(words), strict=False).to_physical().cast(pl.Float32).fill_null(-1.0)
        if self.flagged:
            places = places.zip_with(text.is_not_null(), pl.Series([float(len(words))]))
        return places.to_torch()

    def read(self, series: pl.Series) -> pl.Series:
        """Return numbers, truths or dates as Float64; null where one is missing or of another kind."""
        if self.kind == "date":
            return as_days(series, self.dates)
        return as_truths(series) if self.kind == "truth" else as_numbers(series, self.decimal, self.sign)

    def fit_marks(self, series: pl.Series) -> pl.Series:
        """Return what `read` gives; from now on, no marks between thousands are taken if there are none here.

        Else 1,234 would be a thousand where the next file means it as a decimal comma.
        """
        plain = replace(self, decimal="")
        if self.kind == "number" and self.decimal == "." and not self.sign:
            read = plain.read(series)
            if read.null_count() == series.null_count():
                self.decimal = ""
                return read
        return self.read(series)

    def check(self, read: pl.Series, series: pl.Series, file: NamedPath, first: int) -> Tensor:
        """Return what `read` gave, float32 `(rows,)`; other arguments and errors as of `to_numbers`."""
        import polars as pl

        numbers = read.cast(pl.Float32)
        wrong = (read.is_null() & series.is_not_null()) | numbers.is_infinite().fill_null(False)
        if wrong.any():
            row = int(wrong.arg_max())  # type: ignore[arg-type]
            kind = "true or false" if self.kind == "truth" else f"a {self.kind}"
            raise file.error(
                f"{kind} in each row of column {self.name}, but row {first + row + 1:,} has {series[row]!r}"
            )
        return numbers.fill_null(float("nan")).to_torch()


def to_inputs(columns: Sequence[Column], frame: pl.DataFrame, file: NamedPath, first: int = 0) -> Tensor:
    """Return the rows of a file as `Encoder` takes them, float32 `(rows, columns)`.

    Args:
        columns: the rules.
        frame: rows of a file, as of `files.tidy`; columns that have no rule are passed over.
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


def to_targets(targets: Sequence[Column], frame: pl.DataFrame, file: NamedPath, first: int = 0) -> Tensor:
    """Return class indices, int64 `(rows,)`, or values, float32 `(rows, targets)`; -1 or NaN if missing.

    Args:
        targets: the rules: one category, whose words are the classes, or numbers.
        frame: rows of a file, as of `files.tidy`.
        file: that they were read from.
        first: number of the file's rows before these.

    Raises:
        ConfigError: a column is missing, or a value is no number or none of the classes, naming its row.
    """
    for target in targets:
        require_column(target.name, frame, file, f"the target's column {target.name}")
    if targets[0].kind != "category":
        return torch.stack([target.to_numbers(frame[target.name], file, first) for target in targets], 1)
    target, series = targets[0], frame[targets[0].name]
    places = target.find_places(series).long()
    unseen = (places < 0) & torch.from_numpy(series.is_not_null().to_numpy().copy())
    if unseen.any():
        row = int(unseen.int().argmax())
        raise file.error(
            f"one of the classes {', '.join(target.words[:20])} in column {target.name}, but row"
            f" {first + row + 1:,} has {series[row]!r}"
        )
    return places


def are_known(targets: Tensor) -> Tensor:
    """Return whether each row has a target, bool `(rows,)`, of targets as of `to_targets`."""
    return ~targets.isnan().any(1) if targets.is_floating_point() else targets >= 0


def as_values(classes: Sequence[str]) -> pl.Series:
    """Return the names of classes as the values that they are: whole numbers, true and false, or text."""
    import polars as pl

    names = pl.Series(classes, dtype=pl.String)
    if list(classes) == TRUTHS:
        return names == "true"
    numbers = names.cast(pl.Int64, strict=False)
    return numbers if not numbers.has_nulls() and numbers.cast(pl.String).equals(names) else names
