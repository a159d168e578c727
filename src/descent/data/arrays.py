"""Memory-mapped NumPy files, for `data=arrays data.inputs=x.npy data.targets=y.npy` and for predictions."""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from descent.data.named_path import NamedPath
from descent.data.samples import Samples
from descent.data.scaling import count_rows
from descent.errors import first_line, require

if TYPE_CHECKING:  # takes half a second to import, so only code that reads files does
    import polars as pl

MAPPED = 1 << 28  # bytes of inputs up to which they are read into memory
FEW = 128  # rows that are mapped at once: Linux may map two megabytes for each of them
ROWS = 65_536  # samples of an array that are in memory at once


def arrays(inputs: str, targets: str, names: Sequence[str] | None = None) -> Samples:
    """Return samples of two `.npy` files; targets are classes, whole numbers `(n,)`, or real values."""
    file = NamedPath("inputs", inputs)
    x, y = load_array(file, "inputs"), to_tensor(load_array(NamedPath("targets", targets), "targets"))
    require(len(x) == len(y), *file, f"one target for each of {len(x):,} inputs, not {len(y):,}")
    kept = Mapped(x) if x.nbytes > MAPPED else to_tensor(x)
    require_finite(kept, file)
    count = int(y.max()) + 1 if not y.is_floating_point() else y.reshape(len(y), -1).shape[1]
    return Samples(kept, y, list(names or map(str, range(count))), per_channel=x.ndim == 4)


class Mapped:
    """Rows of a mapped file; its pages are given back once they are read, and stay in the system's cache."""

    augment, workers = None, 0

    def __init__(self, array: Any) -> None:
        self.array = array

    def __len__(self) -> int:
        return len(self.array)

    def __getitem__(self, rows: Tensor) -> Tensor:
        parts = []
        for some in rows.split(FEW):
            parts.append(to_tensor(self.array[some.numpy()]))
            if isinstance(self.array.base, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
                self.array.base.madvise(mmap.MADV_DONTNEED)
        return torch.cat(parts)


class ArrayReader:
    """Reads NumPy files: `.npy` with inputs, or `.npz` with `inputs` and `targets`."""

    def __init__(self, shape: Sequence[int]) -> None:
        self.shape, self.targets = tuple(shape), ["class"]

    @classmethod
    def from_description(cls, description: Mapping[str, Any]) -> ArrayReader:
        return cls(description["shape"])

    def encoder(self) -> None:
        """Return None, because an array already contains the numbers to scale."""

    def read(self, file: NamedPath) -> Iterator[tuple[pl.DataFrame, Tensor]]:
        import polars as pl

        array = self._load_inputs(file)
        for start in range(0, len(array), ROWS):
            yield pl.DataFrame(), to_tensor(array[start : start + ROWS])

    def read_with_targets(self, file: NamedPath, classes: Sequence[str]) -> Iterator[tuple[Tensor, Tensor]]:
        array, targets = self._load_inputs(file), to_tensor(load_array(file, "targets"))
        n, last = len(array), len(classes) - 1
        require(n == len(targets), *file, f"one target for each of {n} inputs, not {len(targets)}")
        if classes:
            fits = (targets == targets.long()) & (targets >= 0) & (targets <= last)
            expected = f"class indices, one per sample, from 0 to {last}"
            require(targets.ndim == 1 and bool(fits.all()), *file, expected)
            targets = targets.long()
        for start in range(0, n, ROWS):
            yield to_tensor(array[start : start + ROWS]), targets[start : start + ROWS]

    def _load_inputs(self, file: NamedPath) -> Any:
        array = load_array(file, "inputs")
        shape = tuple(array.shape[1:])
        require(shape == self.shape, *file, f"samples of shape {self.shape}, not {shape}")
        require_finite(Mapped(array), file)
        return array

    def notes(self) -> list[str]:
        return []


def load_array(file: NamedPath, name: str) -> Any:
    """Return an array of numbers with at least one row: of an `.npy` file, mapped, or of an `.npz`."""
    path, alone = file.locate("file"), name in ("inputs", file.key)
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        if not alone or not isinstance(array, np.ndarray):
            array = array[name]
        if array.ndim == 0 or len(array) == 0:
            raise ValueError("its array has no rows")
    except Exception as error:  # NumPy raises its own for each kind of damage
        kind = "a NumPy file, .npy or .npz" if alone else "an .npz file with both"
        raise file.error(f"{kind} ({first_line(error)})") from error
    numbers = array.dtype.kind in "biuf" and hasattr(torch, array.dtype.name)
    require(numbers, *file, f"numbers as {name}, not {array.dtype.name}")
    return array


def to_tensor(array: Any) -> Tensor:
    """Return a copy of a NumPy array of any byte order as a tensor."""
    return torch.from_numpy(array.astype(array.dtype.name))


def require_finite(inputs: Any, file: NamedPath) -> None:
    """Raise a `ConfigError` if a number of an array is infinite or NaN."""
    one, n = inputs[torch.arange(1)], len(inputs)
    size = count_rows(one)
    for start in range(0, n if one.is_floating_point() else 0, size):
        block = inputs[torch.arange(start, min(start + size, n))]
        finite = block.isfinite().unsqueeze(1).flatten(1).all(1)
        if not finite.all():
            row = start + int(finite.int().argmin()) + 1
            raise file.error(f"finite numbers, but row {row:,} has one that is infinite or NaN")
