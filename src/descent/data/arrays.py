"""Memory-mapped NumPy files, for `data=arrays data.inputs=x.npy data.targets=y.npy` and for predictions."""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile, ZipFile

import numpy as np
import torch
from torch import Tensor

from descent.data.named_path import NamedPath
from descent.data.samples import Samples
from descent.data.scaling import let_go
from descent.errors import first_line

if TYPE_CHECKING:  # takes half a second to import, so only code that reads files does
    import polars as pl

BYTES = 1 << 30  # of an array in an .npz file, which is read whole
ROWS = 65_536  # samples of an array that are in memory at once


def arrays(inputs: str, targets: str, names: Sequence[str] | None = None) -> Samples:
    """Return samples of two `.npy` files; targets are classes, whole numbers `(n,)`, or real values."""
    file = NamedPath("inputs", inputs)
    x, y = load_array(file, "inputs"), load_array(NamedPath("targets", targets), "targets")
    if len(x) != len(y):
        raise file.error(f"a target each for {len(x):,} inputs, not {len(y):,}")
    mapped: Any = torch.from_numpy(x) if x.dtype.isnative else to_tensor(x)
    mapped.mapped = True
    if isinstance(x.base, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):  # pages stay in the system's cache
        mapped.release = partial(x.base.madvise, mmap.MADV_DONTNEED)
    values = to_tensor(y)
    require_finite(mapped, file)
    count = int(values.max()) + 1 if not values.is_floating_point() else values.reshape(len(y), -1).shape[1]
    return Samples(mapped, values, list(names or map(str, range(count))), per_channel=mapped.dim() == 4)


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
        if len(array) != len(targets):
            raise file.error(f"a target each for {len(array)} inputs, not {len(targets)}")
        if classes:
            fits = (targets == targets.long()) & (targets >= 0) & (targets < len(classes))
            if targets.ndim != 1 or not fits.all():
                last = len(classes) - 1
                raise file.error(f"targets that are numbers of classes, one a sample, 0 to {last}")
            targets = targets.long()
        for start in range(0, len(array), ROWS):
            yield to_tensor(array[start : start + ROWS]), targets[start : start + ROWS]

    def notes(self) -> list[str]:
        return []

    def _load_inputs(self, file: NamedPath) -> Any:
        array = load_array(file, "inputs")
        if tuple(array.shape[1:]) != self.shape:
            raise file.error(f"samples of shape {self.shape}, not {tuple(array.shape[1:])}")
        require_finite(torch.from_numpy(array), file)
        return array


def load_array(file: NamedPath, name: str) -> Any:
    """Return an array of numbers with at least one dimension; an `.npy` file is mapped, not read."""
    path, alone = Path(file.path).expanduser(), name in ("inputs", file.key)
    try:
        if not path.is_file():  # opening a pipe would block
            raise ValueError("there is no regular file")
        with path.open("rb") as stream:
            start = stream.read(6)
        if start.startswith(b"PK"):
            with ZipFile(path) as archive:  # a small compressed file may stand for more than a memory holds
                if archive.getinfo(f"{name}.npy").file_size > BYTES:
                    raise ValueError("its array is larger than 1 GiB: save it as .npy")
            array = np.load(path, allow_pickle=False)[name]
        elif start == b"\x93NUMPY" and alone:
            array = np.lib.format.open_memmap(path, mode="r")
        else:
            raise ValueError("it is of another format")
        if array.ndim == 0 or len(array) == 0:
            raise ValueError("its array has no rows")
    except (OSError, ValueError, KeyError, EOFError, BadZipFile, TypeError, SyntaxError) as error:
        kind = "a NumPy file, .npy or .npz" if alone else "an .npz file with both"
        raise file.error(f"{kind} ({first_line(error)})") from error
    if array.dtype.kind not in "biuf" or not hasattr(torch, array.dtype.name):
        raise file.error(f"numbers as {name}, not {array.dtype.name}")
    return array


def to_tensor(array: Any) -> Tensor:
    """Return a copy of a NumPy array of any byte order as a tensor."""
    return torch.from_numpy(array.astype(array.dtype.name))


def require_finite(inputs: Tensor, file: NamedPath) -> None:
    """Raise a `ConfigError` if a number of an array is infinite or NaN."""
    if not inputs.is_floating_point():
        return
    size = max(1, (1 << 22) // max(1, inputs[:1].numel()))
    for start, block in enumerate(inputs.split(size)):
        finite = block.flatten(1).isfinite().all(1) if block.dim() > 1 else block.isfinite()
        if not finite.all():
            row = start * size + int(finite.int().argmin()) + 1
            raise file.error(f"finite numbers, but row {row:,} has one that is infinite or NaN")
        let_go(inputs)
