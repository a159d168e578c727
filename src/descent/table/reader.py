"""New tables as a trained model takes them, by the rules that were fitted in training."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import polars as pl
import torch
from torch import Tensor

from descent.data.named_path import NamedPath
from descent.errors import ConfigError, nearest
from descent.table.columns import TRUTHS, Column
from descent.table.encoder import Encoder
from descent.table.files import Format, read_blocks, tidy


class TableReader:
    """A reader (see `descent.data.readers`) of CSV and Parquet files, and of frames.

    Args:
        path: the file that the rules were fitted on.
        goals: the rules of the columns to predict.
        format: how the text of files is written.
        columns: the rules of the columns to learn from.
    """

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
        """Return the reader that `describe` described; a TypeError where that is none."""
        goals, columns = ([Column(**column) for column in values[part]] for part in ("targets", "columns"))
        format = Format(**values["format"])
        for rules, model in [
            (format, Format([])),
            *((column, Column("", "date")) for column in goals + columns),
        ]:
            if any(type(value) is not type(getattr(model, name)) for name, value in vars(rules).items()):
                raise TypeError(f"no rules of a table: {rules}")
        return cls(values["path"], goals, format, columns)

    def encoder(self) -> Encoder:
        """Return what makes features of the columns."""
        return Encoder(self.columns)

    def read(self, file: NamedPath) -> Iterator[tuple[pl.DataFrame, Tensor]]:
        """Yield blocks of a file's rows, in order, as they are and as float64 inputs `(rows, columns)`.

        Raises:
            ConfigError: no such file, a column is missing, or a value is of another kind than its column's.
        """
        first = 0
        for frame in read_blocks(file, self.format):
            yield frame, self.take(frame, file, first)
            first += len(frame)

    def read_frame(self, frame: pl.DataFrame) -> tuple[pl.DataFrame, Tensor]:
        """Return the same of a frame."""
        file = NamedPath("input", "a frame")
        frame = tidy(frame, self.format.missing, file)
        return frame, self.take(frame, file)

    def read_with_targets(self, file: NamedPath, classes: Sequence[str]) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield blocks of inputs and targets (see `take_targets`) of the rows that have a target.

        Raises:
            ConfigError: beside those of `read`, the rules have other words than the run has classes.
        """
        if classes and self.goals[0].words != list(classes):
            raise ConfigError("run", expected=f"rules with its classes, {', '.join(classes)[:200]}")
        first = 0
        for frame, inputs in self.read(file):
            targets = self.take_targets(frame, file, first)
            known = ~targets.isnan().any(1) if targets.is_floating_point() else targets >= 0
            yield inputs[known], targets[known]
            first += len(frame)

    def take(self, frame: pl.DataFrame, file: NamedPath, first: int = 0) -> Tensor:
        """Return the inputs of rows after the `first` of a file, and count the words that training never saw."""
        inputs = to_numbers(self.columns, frame, file, first)
        for column, values in zip(self.columns, inputs.T, strict=True):
            self.unseen[column.name] += int((values < 0).sum()) if column.words else 0
        return inputs

    def take_targets(self, frame: pl.DataFrame, file: NamedPath, first: int = 0) -> Tensor:
        """Return classes, int64 `(rows,)`, or values, float64 `(rows, targets)`; -1 or NaN where missing."""
        values = to_numbers(self.goals, frame, file, first)
        return values[:, 0].nan_to_num(-1).long() if self.goals[0].kind == "class" else values

    def notes(self) -> list[str]:
        """Return a line for each column with categories that training never saw."""
        return [
            f"column {name}: {count:,} values are none of the words that training knew"
            for name, count in self.unseen.items()
            if count
        ]

    def name_classes(self, classes: Sequence[str]) -> pl.Series:
        """Return classes as the values that they are in a table: whole numbers, true and false, or text."""
        names = pl.Series(classes, dtype=pl.String)
        if list(classes) == TRUTHS:
            return names == "true"
        numbers = names.cast(pl.Int64, strict=False)
        return numbers if numbers.cast(pl.String).equals(names) else names


def to_numbers(columns: Sequence[Column], frame: pl.DataFrame, file: NamedPath, first: int) -> Tensor:
    """Return columns of a frame as numbers, float64 `(rows, columns)`; see `Column.to_numbers`."""
    numbers = torch.empty(len(frame), len(columns), dtype=torch.float64)
    for place, column in enumerate(columns):
        if column.name not in frame.columns:
            error = file.error(f"a column {column.name}")
            error.nearest = nearest(column.name, frame.columns)
            raise error
        numbers[:, place] = column.to_numbers(frame[column.name], file, first)
    return numbers
