"""Files as the inputs of a trained model: one reader a kind of data, rebuilt from a checkpoint."""

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


class Reader(Protocol):
    """What a model needs to know about files.

    Attributes:
        targets: names of what is predicted: a table's columns, or "class".
    """

    targets: list[str]

    def encoder(self) -> nn.Module | None:
        """Return what raw inputs go through before they are normalised; see `descent.scaling.Scaling`."""

    def read(self, file: NamedPath) -> Iterator[tuple[pl.DataFrame, Tensor]]:
        """Yield blocks of samples, in order: their columns, such as a file's name, and their raw inputs."""

    def read_with_targets(self, file: NamedPath, classes: Sequence[str]) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield blocks of raw inputs, and of class indices, int64 `(n,)`, or of values, float32
        `(n, targets)` in their own units, where `classes` is empty."""

    def notes(self) -> list[str]:
        """Return what is to be said of what was read."""


class ArrayReader:
    """Arrays of NumPy: `.npy` of inputs, or `.npz` of `inputs` and `targets`.

    Args:
        shape: of one sample.
    """

    def __init__(self, shape: Sequence[int]) -> None:
        self.shape, self.targets = tuple(shape), ["class"]

    def encoder(self) -> None:
        """Return nothing: an array holds what is normalised."""

    def read(self, file: NamedPath) -> Iterator[tuple[pl.DataFrame, Tensor]]:
        """Yield frames without columns, and inputs `(n, *shape)`; errors as of `read_with_targets`."""
        import polars as pl

        inputs = self._load_array(file, "inputs")
        for start in range(0, len(inputs), ROWS):
            yield pl.DataFrame(), to_tensor(inputs[start : start + ROWS])

    def read_with_targets(self, file: NamedPath, classes: Sequence[str]) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield inputs `(n, *shape)` and targets.

        Raises:
            ConfigError: no such file, or arrays of another name, type, shape or length.
        """
        inputs, targets = (self._load_array(file, name) for name in ("inputs", "targets"))
        if len(inputs) != len(targets):
            raise file.error(f"a target each for {len(inputs)} inputs, not {len(targets)}")
        for start in range(0, len(inputs), ROWS):
            rows = slice(start, start + ROWS)
            part = to_tensor(targets[rows])
            whole = not part.is_floating_point() or bool((part == part.long()).all())
            if classes and not (whole and part.ndim == 1):
                raise file.error("targets that are numbers of classes, one a sample, which are whole")
            part = part.long() if classes else part.float().reshape(len(part), -1)
            yield to_tensor(inputs[rows]), part

    def notes(self) -> list[str]:
        """Return nothing, for an array is what it is."""
        return []

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
            of_both = "inputs and targets in an .npz file"
            wanted = of_both if name == "targets" else "a NumPy file, .npy or .npz"
            raise file.error(f"{wanted} ({first_line(error)})") from error
        if name == "targets" and path.suffix != ".npz":
            raise file.error("inputs and targets in an .npz file")
        if name == "inputs" and tuple(array.shape[1:]) != self.shape:
            raise file.error(f"samples of shape {self.shape}, not {tuple(array.shape[1:])}")
        if array.dtype.kind not in "biuf" or not hasattr(torch, array.dtype.name):
            raise file.error(f"numbers as {name}, not {array.dtype.name}")
        return array


def to_tensor(array: Any) -> Tensor:
    """Return a copy of an array of NumPy, of any byte order."""
    return torch.from_numpy(array.astype(array.dtype.name))


def reader_of(description: Mapping[str, Any], input_shape: Sequence[int]) -> Reader:
    """Return the reader that a checkpoint describes.

    Args:
        description: `reader` of `DataModule.describe`.
        input_shape: of one sample of an array.
    """
    if description["kind"] == "table":
        return TableReader.from_description(description)
    if description["kind"] == "images":
        return ImageReader.from_description(description)
    return ArrayReader(input_shape)
