"""Digits read by workers and augmented at random, and on demand a batch of NaN: data to break runs with."""

import random
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from descent.data.batches import Order
from descent.data.digits import digits
from descent.data.samples import FromSamples
from descent.data.stored import Loader


def shake(image: Tensor) -> Tensor:
    """Shift an image and add noise, drawn from all three generators that augmentation may draw from."""
    image = image.roll(random.randint(-1, 1), -1)
    return image * float(np.random.uniform(0.9, 1.1)) + 0.05 * torch.randn_like(image)


class Poisoned(Loader):
    """Its batch number `nan_at`, counted over the epochs, has a NaN in sample 3."""

    nan_at = -1

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        first = self.order.epoch * len(self) + self.order.first
        for number, (inputs, targets) in enumerate(super().__iter__(), first):
            if number == self.nan_at:
                inputs[3, 0, 0, 0] = float("nan")
            yield inputs, targets


class Digits(FromSamples):
    """The digits, augmented, read by `workers` processes."""

    def __init__(self, batch_size: int = 64, seed: int = 0, nan_at: int = -1, workers: int = 2) -> None:
        super().__init__(digits, batch_size, 512, 0.1, 0.1, seed, 0.0)
        self.nan_at, self.workers = nan_at, workers

    def train_dataloader(self) -> Loader:
        order = Order(self.rows["train"], self.batch_size, self.seed)
        loader = Poisoned(self.inputs, self.targets, order, augment=shake, workers=self.workers)
        loader.nan_at = self.nan_at
        return loader


def broken(input_shape: tuple[int, ...], outputs: int) -> object:
    """A model with a bug."""
    return forgotten(input_shape, outputs)  # type: ignore[name-defined] # noqa: F821
