"""Tensors in memory, cut into batches: the order of an epoch is a function of (seed, epoch)."""

import random
from collections.abc import Callable, Iterator
from math import ceil

import torch
from torch import Tensor

CHUNK = 1 << 20  # numbers gathered at once: enough to amortise the call, few enough to stay in the cache


class Batches:
    """What a DataLoader is to Lightning, for tensors: no workers, no collation, one gather for many batches.

    The order depends on `(seed, epoch)` alone, never on the global random state, so an epoch can be run
    again on its own. Lightning calls `sampler.set_epoch` before each epoch.

    Args:
        inputs: all samples, shape `(n, ...)`; stay where they are, on the CPU or a GPU.
        targets: shape `(n, ...)`, on the same device.
        batch_size: samples a batch; the last one may be smaller.
        seed: of the order; None keeps the samples' own order.
        transform: applied to the inputs of a chunk of whole batches, such as the scaling of bytes.
        rank: of this process; with `world_size`, the share of every epoch that it gets.
        world_size: number of processes.
        rows: those of the samples that are meant, int64 `(n,)`; None for all.
    """

    def __init__(
        self,
        inputs: Tensor,
        targets: Tensor,
        batch_size: int,
        seed: int | None = None,
        transform: Callable[[Tensor], Tensor] | None = None,
        rank: int = 0,
        world_size: int = 1,
        rows: Tensor | None = None,
    ) -> None:
        self.inputs, self.targets = inputs, targets
        self.batch_size, self.seed, self.transform = batch_size, seed, transform
        self.rank, self.world_size, self.rows = rank, world_size, rows
        self.epoch = self.first = 0
        if seed is not None:
            self.sampler, self.batch_sampler = self, None  # where Lightning looks for set_epoch
        batches_a_chunk = max(1, CHUNK // max(1, inputs[:1].numel() * batch_size))
        self.chunk = batches_a_chunk * batch_size

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def state_dict(self) -> dict[str, int]:
        return {"batch": 0}  # a checkpoint puts the number of the batch that comes next here

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Have the next epoch begin at its batch number `batch`."""
        self.first = state["batch"]

    def __len__(self) -> int:
        return ceil(self._samples() / self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        first, self.first = self.first, 0
        if self.seed is None and self.transform is None and self.world_size == 1 and self.rows is None:
            inputs, targets = self.inputs.split(self.batch_size), self.targets.split(self.batch_size)
            yield from zip(inputs[first:], targets[first:], strict=True)
            return
        rest = self.order()[first * self.batch_size :]
        rest = rest if self.rows is None else self.rows[rest]
        for rows in rest.to(self.inputs.device).split(self.chunk):
            inputs, targets = self.inputs[rows], self.targets[rows]
            if self.transform is not None:
                inputs = self.transform(inputs)
            yield from zip(inputs.split(self.batch_size), targets.split(self.batch_size), strict=True)

    def order(self) -> Tensor:
        """The samples of this epoch and process, int64. Processes get equally many in training, so that
        none waits for another: some samples come twice, as in torch's DistributedSampler."""
        n = len(self.targets if self.rows is None else self.rows)
        if self.seed is None:
            return torch.arange(self.rank, n, self.world_size)
        # hashed, so that epoch 1 of seed 0 and epoch 0 of seed 1 have nothing in common
        key = random.Random(f"{self.seed}:{self.epoch}").getrandbits(63)
        order = torch.randperm(n, generator=torch.Generator().manual_seed(key))
        if self.world_size > 1:
            total = self._samples() * self.world_size
            order = order.repeat(ceil(total / n))[:total]
        return order[self.rank :: self.world_size]

    def _samples(self) -> int:
        n = len(self.targets if self.rows is None else self.rows)
        if self.seed is None:
            return len(range(self.rank, n, self.world_size))
        return ceil(n / self.world_size)
