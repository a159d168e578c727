"""Files as the inputs of a trained model: one reader for each kind of data, rebuilt from a checkpoint."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from zipfile import BadZipFile

import torch
from torch import Tensor, nn

from descent.data.images.image_reader import ImageReader
from descent.data.named_path import NamedPath
from descent.data.table.table_reader import TableReader
from descent.errors import first_line

if TYPE_CHECKING:  # half a second of import that only those who read files pay for
    import polars as pl

ROWS = 65_536  # samples of an array that are in memory at once
BOTH = "inputs and targets in an .npz file"


class Reader(Protocol):
    """What a model needs to know about files."""

    targets: list[str]  # names of what is predicted: a table's columns, or "class"

    def encoder(self) -> nn.Module | None:
        """Return the module that raw inputs go through before `descent.scaling.Scaling` normalises them."""

    def read(self, file: NamedPath) -> Iterator[tuple[pl.DataFrame, Tensor]]:
        """Yield blocks of samples, in order: their columns, such as a file's name, and their raw inputs."""

    def read_with_targets(self, file: NamedPath, classes: Sequence[str]) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield blocks of raw inputs with class indices, int64 `(n,)`; or with values in their own units,
        float32 `(n, targets)`, if `classes` is empty."""

    def notes(self) -> list[str]:
        """Return lines that a person should know about what was read."""


class ArrayReader:
    """A reader of NumPy's files: `.npy` with inputs, or `.npz` with `inputs` and `targets`.

    Args:
        shape: of one sample.
    """

    def __init__(self, shape: Sequence[int]) -> None:
        self.shape, self.targets = tuple(shape), ["class"]

    def encoder(self) -> None:
        """Return None: an array holds the numbers that are normalised."""

    def read(self, file: NamedPath) -> Iterator[tuple[pl.DataFrame, Tensor]]:
        """Yield frames without columns, and inputs `(n, *shape)`."""
        import polars as pl

        array = self._load_array(file, "inputs")
        for start in range(0, len(array), ROWS):
            yield pl.DataFrame(), self._take(array, start, file)

    def read_with_targets(self, file: NamedPath, classes: Sequence[str]) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield inputs `(n, *shape)` and targets.

        Raises:
            ConfigError: there is no such file, its arrays have another name, type, shape or length, inputs
                are infinite or NaN, or targets are no classes.
        """
        array, of_targets = (self._load_array(file, name) for name in ("inputs", "targets"))
        if len(array) != len(of_targets):
            raise file.error(f"a target each for {len(array)} inputs, not {len(of_targets)}")
        for start in range(0, len(array), ROWS):
            targets = to_tensor(of_targets[start : start + ROWS])
            if classes:
                targets = to_classes(targets, len(classes), file, start)
            else:
                targets = targets.float().reshape(len(targets), -1)
            yield self._take(array, start, file), targets

    def notes(self) -> list[str]:
        """Return no lines."""
        return []

    def _take(self, array: Any, start: int, file: NamedPath) -> Tensor:
        """Return the block of inputs that begins at a row."""
        inputs = to_tensor(array[start : start + ROWS])
        require_finite(inputs, file, start)
        return inputs

    def _load_array(self, file: NamedPath, name: str) -> Any:
        import numpy as np

        path = Path(file.path).expanduser()
        try:
            if not path.is_file():  # a pipe would be waited for
                raise ValueError("there is no regular file")
            with path.open("rb") as stream:
                if not stream.read(6).startswith((b"\x93NUMPY", b"PK")):
                    raise ValueError("it is of another format")
            array = np.load(path, mmap_mode="r", allow_pickle=False)
            array = np.asanyarray(array[name] if path.suffix == ".npz" else array)
        except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
            kind = BOTH if name == "targets" else "a NumPy file, .npy or .npz"
            raise file.error(f"{kind} ({first_line(error)})") from error
        if name == "targets" and path.suffix != ".npz":
            raise file.error(BOTH)
        if name == "inputs" and tuple(array.shape[1:]) != self.shape:
            raise file.error(f"samples of shape {self.shape}, not {tuple(array.shape[1:])}")
        if array.dtype.kind not in "biuf" or not hasattr(torch, array.dtype.name):
            raise file.error(f"numbers as {name}, not {array.dtype.name}")
        return array


def to_tensor(array: Any) -> Tensor:
    """Return a copy of an array of NumPy, of any byte order."""
    return torch.from_numpy(array.astype(array.dtype.name))


def to_classes(targets: Tensor, count: int, file: NamedPath, first: int) -> Tensor:
    """Return class indices, int64, or raise a `ConfigError` if a target is not one of `count` classes.

    Args:
        targets: numbers of a block of samples.
        count: how many classes there are.
        file: what errors are about.
        first: how many samples of the file came before this block.
    """
    classes = targets.long()
    if targets.ndim != 1 or not bool((targets == classes).all()):
        raise file.error("targets that are numbers of classes, one a sample, which are whole")
    unknown = (classes < 0) | (classes >= count)
    if unknown.any():
        row = int(unknown.int().argmax())
        raise file.error(f"classes from 0 to {count - 1}, but row {first + row + 1:,} has {classes[row]}")
    return classes


def require_finite(inputs: Tensor, file: NamedPath, first: int) -> None:
    """Raise a `ConfigError` if a number of an array is infinite or NaN; see `to_classes`."""
    if inputs.is_floating_point():
        finite = inputs.float().flatten(1).isfinite().all(1)  # a network computes with float32
        if not finite.all():
            row = first + int(finite.int().argmin()) + 1
            raise file.error(f"finite numbers, but row {row:,} has one that is infinite or NaN")


def reader_of(description: Mapping[str, Any], input_shape: Sequence[int]) -> Reader:
    """Return the reader that `DataModule.describe` told of; arrays have samples of this shape."""
    if description["kind"] == "table":
        return TableReader.from_description(description)
    if description["kind"] == "images":
        return ImageReader.from_description(description)
    return ArrayReader(input_shape)
