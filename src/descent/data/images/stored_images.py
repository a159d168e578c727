"""Images that workers decode anew in each epoch, or augment, one by one."""

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
    """The `StoredInputs` of `descent.data.samples`, for images.

    Args:
        files: of the images.
        kept: the images, uint8 `(n, channels, height, width)`, or no images, and then they are decoded.
        reader: knows size and channels.
        sums: sum and sum of squares of each image's channels, float64 `(2, channels)`.
        augment: a random change of one training image, or None.
        workers: processes that read; "auto" is one for each core but the one that trains, at most 8.
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
        if len(self.kept):
            return self.kept[row]
        return decode(self.files[row], self.reader.size, self.reader.channels)

    def moments(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        mean, square = self.sums[rows].sum(0) / (len(rows) * prod(self.reader.size))
        return mean.reshape(-1, 1, 1), square.reshape(-1, 1, 1)
