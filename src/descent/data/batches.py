"""Cuts samples into batches that depend on (seed, epoch) alone, whatever reads them."""

import random
from collections.abc import Callable, Iterator
from math import ceil

import torch
from torch import Tensor

from descent.data.scaling import let_go

Transform = Callable[[Tensor], Tensor]  # of a batch's inputs, such as scaling bytes
CHUNK = 1 << 20  # numbers gathered at once: enough to amortise the call, few enough to fit in the cache


class Order:
    """The order of each epoch's samples, by row, and this process's share of them.

    It depends on `(seed, epoch)` alone, never on the global random state, so an epoch can be repeated on its
    own and started in the middle. Without a seed, the order is that of `rows`, int64 `(n,)`.
    """

    def __init__(
        self,
        rows: Tensor,
        batch_size: int,
        seed: int | None = None,
        rank: int = 0,
        world_size: int = 1,
        drop_last: bool = False,
    ) -> None:
        self.rows, self.batch_size, self.seed = rows, batch_size, seed
        self.rank, self.world_size, self.drop_last = rank, world_size, drop_last
        self.epoch = self.first = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        samples = len(range(self.rank, len(self.rows), self.world_size))
        if self.seed is not None:
            samples = ceil(len(self.rows) / self.world_size)
        return max(1, samples // self.batch_size) if self.drop_last else ceil(samples / self.batch_size)

    def draw(self) -> Tensor:
        """Return the rows of this epoch for this process."""
        n = len(self.rows)
        if self.seed is None:
            return self.rows[self.rank :: self.world_size]
        # hashed, so that epoch 1 of seed 0 and epoch 0 of seed 1 have nothing in common
        key = random.Random(f"{self.seed}:{self.epoch}").getrandbits(63)
        order = torch.randperm(n, generator=torch.Generator().manual_seed(key))
        # all processes get equally many, so that none waits: some samples come twice, as in torch
        total = ceil(n / self.world_size) * self.world_size
        order = order.repeat(ceil(total / n))[:total]
        return self.rows[order[self.rank :: self.world_size]]

    def draw_rest(self) -> tuple[int, Tensor]:
        """Return the number of the batch to start at, and clear it; and the rows from there on."""
        first, self.first = self.first, 0
        return first, self.draw()[first * self.batch_size : len(self) * self.batch_size]

    def __iter__(self) -> Iterator[tuple[str, list[int]]]:
        """Yield the rows of each batch, with a key that no other batch has."""
        first, rest = self.draw_rest()
        for number, rows in enumerate(rest.split(self.batch_size), first):
            yield f"{self.seed}:{self.epoch}:{self.rank}:{number}", rows.tolist()


class Ordered:
    """What Lightning and a resumed run require of a loader, whatever it reads."""

    def __init__(self, order: Order) -> None:
        self.order = order
        if order.seed is not None:
            self.sampler = order  # where Lightning looks for set_epoch

    def __len__(self) -> int:
        return len(self.order)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        raise NotImplementedError

    def set_epoch(self, epoch: int) -> None:
        self.order.set_epoch(epoch)

    def start_at(self, batch: int) -> None:
        """Start the next epoch, and only that one, at the batch with this number."""
        self.order.first = batch


class Batches(Ordered):
    """Batches of tensors `(n, …)` in memory: one gather, and one transform of inputs, for many batches."""

    def __init__(
        self, inputs: Tensor, targets: Tensor, order: Order, transform: Transform | None = None
    ) -> None:
        super().__init__(order)
        self.inputs, self.targets, self.transform = inputs, targets, transform

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        size = self.order.batch_size
        batches_a_chunk = max(1, CHUNK // max(1, self.inputs[:1].numel() * size))
        _, rest = self.order.draw_rest()
        for rows in rest.to(self.inputs.device).split(batches_a_chunk * size):
            # on one thread, two to four times as fast as `inputs[rows]`
            inputs, targets = self.inputs.index_select(0, rows), self.targets.index_select(0, rows)
            let_go(self.inputs)
            if self.transform is not None:
                inputs = self.transform(inputs)
            yield from zip(inputs.split(size), targets.split(size), strict=True)
