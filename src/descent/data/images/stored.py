"""Images that are decoded anew in each epoch, or augmented, one by one."""

import os
from collections.abc import Callable, Sequence
from math import prod
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from descent.data.images.decoding import decode
from descent.data.images.image_reader import ImageReader
from descent.errors import require


class StoredImages:
    """Inputs for `descent.data.samples.Samples` that workers read.

    Args:
        files: the images.
        kept: those images, uint8 `(n, channels, height, width)`, or none of them, and then they are decoded.
        reader: says size and channels.
        sums: sum and sum of squares a channel of each image, float64 `(2, channels)`.
        augment: a random change of one training image, or None.
        workers: processes that read; "auto" is one a core but for the one that trains, and at most 8.

    Raises:
        ConfigError: a negative number of workers.
    """

    def __init__(
        self,
        files: Sequence[Path],
        kept: Tensor,
        reader: ImageReader,
        sums: Sequence[Tensor],
        augment: Callable[[Tensor], Tensor] | None,
        workers: int | Literal["auto"],
    ) -> None:
        self.files, self.kept, self.reader, self.augment = files, kept, reader, augment
        self.sums = torch.stack(list(sums))
        self.workers = min(8, max(1, (os.cpu_count() or 1) - 1)) if workers == "auto" else workers
        require(self.workers >= 0, "workers", workers, "auto, or a whole number of at least 0")

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, row: int) -> Tensor:
        """Return one image, uint8 `(channels, height, width)`."""
        if len(self.kept):
            return self.kept[row]
        return decode(self.files[row], self.reader.size, self.reader.channels)

    def moments(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and mean square a channel over some rows, float64 `(channels, 1, 1)`."""
        mean, square = self.sums[rows].sum(0) / (len(rows) * prod(self.reader.size))
        return mean.reshape(-1, 1, 1), square.reshape(-1, 1, 1)
