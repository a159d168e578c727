"""Samples read by workers, in batches that depend on (seed, epoch, number) alone, augmentation included."""

import random
from collections.abc import Callable, Iterator
from math import ceil
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, DistributedSampler, SequentialSampler, default_collate


class Loader(DataLoader):
    """A DataLoader whose epochs can be begun in the middle, and come out the same.

    torch's own draws its order from the global random state, and lets what a worker draws depend on how
    many batches that worker has made; neither can be resumed. Here every batch has a key of its own.

    Args:
        dataset: samples by index; its random augmentation may use torch, numpy and random.
        batch_size: samples a batch; the last one may be smaller.
        seed: of the order and the augmentation; None keeps the samples' own order.
        collate: makes a batch of a list of samples.
        rank: of this process; with `world_size`, the share of every epoch that it gets.
        world_size: number of processes.
        settings: further ones of DataLoader, such as num_workers and pin_memory.
    """

    def __init__(
        self,
        dataset: Dataset[Any],
        batch_size: int,
        seed: int | None = None,
        collate: Callable[[list[Any]], Any] = default_collate,
        rank: int = 0,
        world_size: int = 1,
        **settings: Any,
    ) -> None:
        kind = InOrder if seed is None else KeyedBatches
        keyed = kind(len(dataset), batch_size, seed, rank, world_size)  # type: ignore[arg-type]
        # a generator of its own, else each epoch would draw a seed for the workers from the global one
        super().__init__(
            Batched(dataset, collate),
            batch_size=None,
            sampler=keyed,
            generator=torch.Generator(),
            **settings,
        )

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        # a generator starts at its first batch, when Lightning has told the sampler its epoch
        yield from super().__iter__()

    def state_dict(self) -> dict[str, int]:
        return {"batch": 0}  # a checkpoint puts the number of the batch that comes next here

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Have the next epoch begin at its batch number `batch`."""
        self.sampler.first = state["batch"]  # type: ignore[attr-defined]


class KeyedBatches(DistributedSampler[Any]):
    """The batches of an epoch as `(key, rows)`: what the batch may draw from, and its samples.

    A DistributedSampler, so that Lightning puts no other in its place.
    """

    def __init__(self, samples: int, batch_size: int, seed: int | None, rank: int, world_size: int) -> None:
        self.samples, self.batch_size, self.seed = samples, batch_size, seed  # type: ignore[assignment]
        self.rank, self.world_size = rank, world_size
        self.epoch = self.first = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return ceil(len(range(self.rank, self._total(), self.world_size)) / self.batch_size)

    def __iter__(self) -> Iterator[tuple[str, list[int]]]:
        first, self.first = self.first, 0
        key = f"{self.seed}:{self.epoch}"
        order = list(range(self.samples))
        if self.seed is not None:
            random.Random(key).shuffle(order)
        order = (order * ceil(self._total() / max(1, self.samples)))[: self._total()]
        mine = order[self.rank :: self.world_size]
        for number in range(first, len(self)):
            rows = mine[number * self.batch_size : (number + 1) * self.batch_size]
            yield f"{key}:{self.rank}:{number}", rows

    def _total(self) -> int:
        # equally many for each process in training, so that none waits for another: some come twice
        if self.seed is None:
            return self.samples
        return ceil(self.samples / self.world_size) * self.world_size


class InOrder(KeyedBatches, SequentialSampler):  # type: ignore[misc]
    """The samples' own order; a SequentialSampler, which Lightning keeps where it overfits batches."""


class Batched(Dataset[Any]):
    """Makes a whole batch, with the random generators of this process set by the batch's key meanwhile."""

    def __init__(self, dataset: Dataset[Any], collate: Callable[[list[Any]], Any]) -> None:
        self.dataset, self.collate = dataset, collate

    def __getitem__(self, batch: tuple[str, list[int]]) -> Any:
        key, rows = batch
        states = random.getstate(), np.random.get_state(), torch.get_rng_state()
        seed = random.Random(key).getrandbits(32)
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        try:
            return self.collate([self.dataset[row] for row in rows])
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])
            torch.set_rng_state(states[2])
