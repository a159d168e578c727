"""Files as the inputs of a trained model: one reader a kind of data, rebuilt from a checkpoint."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from descent.data.files import TableReader
from descent.errors import ConfigError

if TYPE_CHECKING:
    import polars as pl

ROWS = 65_536  # samples of an array that are in memory at once


class Reader(Protocol):
    """What a model needs to know about files."""

    def encoder(self) -> nn.Module:
        """From inputs as they are read to what the model's normalisation takes."""

    def read(self, path: str, source: str) -> Iterator[tuple[pl.DataFrame, Tensor]]:
        """Blocks of samples, in order: their columns, such as a file's name, and their inputs."""

    def read_with_targets(
        self, path: str, source: str, classes: Sequence[str]
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Blocks of inputs, and of targets: class indices or values."""

    def notes(self) -> list[str]:
        """What is to be said of what was read."""


class ArrayReader:
    """Arrays of NumPy: `.npy` of inputs, or `.npz` of `inputs` and `targets`.

    Args:
        shape: of one sample.
    """

    def __init__(self, shape: Sequence[int]) -> None:
        self.shape = tuple(shape)

    def encoder(self) -> nn.Module:
        return nn.Identity()

    def read(self, path: str, source: str) -> Iterator[tuple[pl.DataFrame, Tensor]]:
        import polars as pl

        inputs = self._array(path, source, "inputs")
        for start in range(0, len(inputs), ROWS):
            yield pl.DataFrame(), torch.from_numpy(inputs[start : start + ROWS].copy())

    def read_with_targets(
        self, path: str, source: str, classes: Sequence[str]
    ) -> Iterator[tuple[Tensor, Tensor]]:
        inputs, targets = (self._array(path, source, name) for name in ("inputs", "targets"))
        if len(inputs) != len(targets):
            raise ConfigError(
                f"{source}: expected a target each for {len(inputs)} inputs, not {len(targets)}"
            )
        dtype = torch.int64 if classes else torch.float32
        for start in range(0, len(inputs), ROWS):
            rows = slice(start, start + ROWS)
            part = torch.as_tensor(targets[rows]).to(dtype)
            yield torch.from_numpy(inputs[rows].copy()), part if classes else part.reshape(len(part), -1)

    def notes(self) -> list[str]:
        return []

    def _array(self, path: str, source: str, name: str) -> Any:
        import numpy as np

        file = Path(path).expanduser()
        try:
            array = np.load(file, mmap_mode="r", allow_pickle=False)
            array = array[name] if file.suffix == ".npz" else array
        except (OSError, ValueError, KeyError, EOFError) as error:
            wanted = (
                "inputs and targets in an .npz file" if name == "targets" else "a NumPy file, .npy or .npz"
            )
            raise ConfigError(f"{source}: expected {wanted} ({error})") from error
        if name == "targets" and file.suffix != ".npz":
            raise ConfigError(f"{source}: expected inputs and targets in an .npz file")
        if name == "inputs" and tuple(array.shape[1:]) != self.shape:
            raise ConfigError(
                f"{source}: expected samples of shape {self.shape}, not {tuple(array.shape[1:])}"
            )
        return array


def reader_of(state: dict[str, Any], input_shape: Sequence[int]) -> Reader:
    """The reader that a checkpoint describes."""
    if state["kind"] == "table":
        return TableReader.of(state)
    if state["kind"] == "images":
        from descent.data.pictures import ImageReader

        return ImageReader(state["path"], tuple(state["size"]), state["channels"], state["classes"])
    return ArrayReader(input_shape)
