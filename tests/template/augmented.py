"""Digits read by workers and augmented at random, and on demand a batch of NaN: data to break runs with."""

import random
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from descent.data.batches import Loader, Order
from descent.data.samples import FromSamples, Samples


class Augmented(Dataset[tuple[Tensor, Tensor]]):
    """Shifts and noise, drawn from all three generators that a data set may draw from."""

    def __init__(self, inputs: Tensor, targets: Tensor) -> None:
        self.inputs, self.targets = inputs, targets

    def __getitem__(self, row: int) -> tuple[Tensor, Tensor]:
        image = self.inputs[row].roll(random.randint(-1, 1), -1)
        image = image * float(np.random.uniform(0.9, 1.1)) + 0.05 * torch.randn_like(image)
        return image, self.targets[row]


class Poisoned(Loader):
    """Its batch number `nan_at`, counted over the epochs, has a NaN in sample 3."""

    nan_at = -1

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        first = self.order.epoch * len(self) + self.order.first
        for number, (inputs, targets) in enumerate(super().__iter__(), first):
            if number == self.nan_at:
                inputs[3, 0, 0, 0] = float("nan")
            yield inputs, targets


def digits(source: Callable[[], Samples], batch_size: int, eval_batch_size: int, val_fraction: float,
           test_fraction: float, seed: int, label_noise: float, nan_at: int = -1,
           workers: int = 2) -> FromSamples:  # fmt: skip
    shares = val_fraction, test_fraction
    data = FromSamples(source, batch_size, eval_batch_size, *shares, seed, label_noise, fold=None, folds=5)

    def train_dataloader() -> Loader:
        order = Order(data.rows["train"], batch_size, seed)
        loader = Poisoned(Augmented(data.inputs, data.targets), order, workers=workers)  # type: ignore[arg-type]
        loader.nan_at = nan_at
        return loader

    data.train_dataloader = train_dataloader  # type: ignore[method-assign]
    return data


def broken(input_shape: tuple[int, ...], outputs: int) -> object:
    """A model with a bug."""
    return forgotten(input_shape, outputs)  # type: ignore[name-defined] # noqa: F821
