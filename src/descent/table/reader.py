"""New tables as a trained model takes them, by the rules that were fitted in training."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from torch import Tensor

from descent.data.named_path import NamedPath
from descent.data.table.columns import Column, are_known, to_inputs, to_targets
from descent.data.table.encoder import Encoder
from descent.data.table.files import Format, read_blocks, tidy
from descent.errors import ConfigError

if TYPE_CHECKING:
    import polars as pl


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
        """Return plain values, for a checkpoint."""
        goals, columns = ([asdict(column) for column in part] for part in (self.goals, self.columns))
        rules = {"targets": goals, "format": asdict(self.format), "columns": columns}
        return {"kind": "table", "path": self.path, **rules}

    @classmethod
    def from_description(cls, values: Mapping[str, Any]) -> TableReader:
        """Return the reader that `describe` told of; a TypeError where that is none."""
        goals, columns = ([Column(**column) for column in values[part]] for part in ("targets", "columns"))
        format = Format(**values["format"])
        require_types(format, Format([]))
        for column in (*goals, *columns):
            require_types(column, Column("", "number"))
        return cls(values["path"], goals, format, columns)

    def encoder(self) -> Encoder:
        """Return what makes features of the columns."""
        return Encoder(self.columns)

    def read(self, file: NamedPath) -> Iterator[tuple[pl.DataFrame, Tensor]]:
        """Yield blocks of a file's rows, in order, as they are and as float32 inputs `(rows, columns)`.

        Raises:
            ConfigError: no such file, a column is missing, or a value is of another kind than its column's.
        """
        first = 0
        for frame in read_blocks(file, self.format):
            yield frame, self.take(frame, file, first)
            first += len(frame)

    def read_frame(self, frame: pl.DataFrame) -> tuple[pl.DataFrame, Tensor]:
        """Return the same of a frame."""
        frame = tidy(frame, self.format.missing)
        return frame, self.take(frame, NamedPath("input", "a frame"), 0)

    def take(self, frame: pl.DataFrame, file: NamedPath, first: int) -> Tensor:
        """Return the inputs of rows, and count the words that training never saw; as of `to_inputs`."""
        inputs = to_inputs(self.columns, frame, file, first)
        for column, values in zip(self.columns, inputs.T, strict=True):
            if column.kind == "category":
                self.unseen[column.name] += int((values < 0).sum())
        return inputs

    def read_with_targets(self, file: NamedPath, classes: Sequence[str]) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield blocks of inputs, and class indices, int64 `(rows,)`, or values, float32 `(rows, targets)`.

        Rows without a target are left out.

        Raises:
            ConfigError: beside those of `read`, a target that is no number, or none of the classes; or the
                rules have other words than the run has classes.
        """
        if classes and self.goals[0].words != list(classes):
            raise ConfigError("run", expected=f"rules with its classes, {', '.join(classes)[:200]}")
        first = 0
        for frame, inputs in self.read(file):
            targets = to_targets(self.goals, frame, file, first)
            known = are_known(targets)
            yield inputs[known], targets[known]
            first += len(frame)

    def notes(self) -> list[str]:
        """Return a line for each column with categories that training never saw."""
        unseen = {name: count for name, count in self.unseen.items() if count}
        return [
            f"column {n}: {c:,} values are none of the words that training knew" for n, c in unseen.items()
        ]


def require_types(rules: Column | Format, like: Column | Format) -> None:
    """Raise a TypeError unless all values are of the types of those of another one; lists are of texts."""
    for name, value in vars(rules).items():
        texts = not isinstance(value, list) or all(isinstance(text, str) for text in value)
        if type(value) is not type(getattr(like, name)) or not texts:
            raise TypeError(f"{name} is a {type(value).__name__}, as no table has it")
