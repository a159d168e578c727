"""Reads new tables for a trained model, by the rules fitted in training."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from math import pi
from typing import Any

import polars as pl
import torch
from torch import Tensor, nn

from descent.data.named_path import NamedPath
from descent.table.columns import TRUTHS, Column, to_numbers
from descent.table.files import Format, read_blocks, tidy
from descent.task import Precise

DAY = 86_400.0  # seconds


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


class TableReader:
    """Reads CSV and Parquet files, and frames; `path` is the file that its rules were fitted on."""

    def __init__(self, path: str, goals: list[Column], format: Format, columns: list[Column]) -> None:
        self.path, self.goals, self.format, self.columns = path, goals, format, columns
        self.targets = [goal.name for goal in goals]
        self.unseen: Counter[str] = Counter()

    def describe(self) -> dict[str, Any]:
        """Return the schema as plain values."""
        goals, columns = ([asdict(column) for column in part] for part in (self.goals, self.columns))
        rules = {"targets": goals, "format": asdict(self.format), "columns": columns}
        return {"kind": "table", "path": self.path, **rules}

    @classmethod
    def from_description(cls, values: Mapping[str, Any]) -> "TableReader":
        """Return the reader from the result of `describe`."""
        goals, columns = ([Column(**column) for column in values[part]] for part in ("targets", "columns"))
        return cls(values["path"], goals, Format(**values["format"]), columns)

    def encoder(self) -> Encoder:
        """Return the module that turns columns into features."""
        return Encoder(self.columns)

    def read(self, file: NamedPath) -> Iterator[tuple[pl.DataFrame, Tensor]]:
        """Yield blocks of rows, in order, and their inputs as of `take`; see `read_blocks` for errors."""
        first = 0
        for frame in read_blocks(file, self.format):
            yield frame, self.take(frame, file, first)
            first += len(frame)

    def read_frame(self, frame: pl.DataFrame) -> tuple[pl.DataFrame, Tensor]:
        """Return the same of a frame."""
        frame = tidy(frame, self.format.missing)
        return frame, self.take(frame, NamedPath("input", "a frame"))

    def read_with_targets(self, file: NamedPath, classes: Sequence[str]) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield blocks of inputs and targets, as of `take_targets`, of the rows that have a target."""
        first = 0
        for frame, inputs in self.read(file):
            targets, known = self.take_targets(frame, file, first)
            yield inputs[known], targets[known]
            first += len(frame)

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
        line = "column {}: {:,} values are none of the words that training knew"
        return [line.format(name, count) for name, count in self.unseen.items() if count]

    def name_classes(self, classes: Sequence[str]) -> pl.Series:
        """Return classes as the values that they are in a table: whole numbers, true and false, or text."""
        names = pl.Series(classes, dtype=pl.String)
        numbers = names.cast(pl.Int64, strict=False)
        if numbers.cast(pl.String).equals(names):
            return numbers
        return names == "true" if list(classes) == TRUTHS else names
