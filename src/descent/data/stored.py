"""Reads samples batch by batch, because they do not fit in memory or are augmented."""

import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from descent.data.batches import Batches, Order, Transform


class Loader(Batches):
    """Batches of samples that workers read, and perhaps augment, ahead of the training.

    torch's DataLoader draws its order from the global random state, and a worker's random numbers depend on
    how many batches that worker has made; neither can be resumed. Here every batch has its own key, and
    the number of workers changes nothing.
    """

    def __init__(
        self,
        inputs: Any,
        targets: Tensor,
        order: Order,
        transform: Transform | None = None,
        augment: Transform | None = None,
        workers: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__(inputs, targets, order, transform)
        self.device = device
        self.loader = DataLoader(
            KeyedBatches(inputs, targets, augment),
            batch_size=None,
            sampler=order,
            collate_fn=tuple,  # leaves a batch unchanged; torch's own would turn its arrays into tensors
            num_workers=workers,
            persistent_workers=workers > 0,
            generator=torch.Generator(),  # otherwise each epoch would draw a seed from the global one
        )

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        # a generator starts only at its first batch, when Lightning has set the order's epoch
        for batch in self.loader:
            inputs, targets = (torch.from_numpy(part).to(self.device) for part in batch)
            yield inputs if self.transform is None else self.transform(inputs), targets


class KeyedBatches(Dataset[Any]):
    """Whole batches, each made with this process's random generators seeded by the batch's key."""

    def __init__(self, inputs: Any, targets: Tensor, augment: Transform | None) -> None:
        self.inputs, self.targets, self.augment = inputs, targets, augment

    def __getitem__(self, batch: tuple[str, list[int]]) -> Any:
        key, rows = batch
        seed = random.Random(key).getrandbits(32)
        with isolate_rng(include_cuda=False):
            random.seed(seed)
            np.random.seed(seed)
            torch.manual_seed(seed)
            inputs = self.inputs[torch.tensor(rows)]
            if self.augment is not None:
                inputs = torch.stack([self.augment(sample) for sample in inputs])
        # arrays are sent through a pipe; tensors need a socket, shared memory and open files, and if a
        # worker gets none of these, the training process waits forever
        return inputs.numpy(), self.targets[rows].numpy()
