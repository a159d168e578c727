"""The forward pass, the loss and the backward pass of a batch as one graph of torch.compile.

Builds on a private name of torch, `torch._dynamo.config.trace_autograd_ops`; it was held against 2.15.
"""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from descent.module import Supervised


class StepGraph:
    """Does what `training_step` and `loss.backward()` do, with no autograd and no Python between kernels.

    The optimizer stays outside: its kernel is torch's own either way (`descent.kernels`), and so each
    optimizer works, a learning rate can change at each step, and the hooks on gradients see them. Taking
    Adam into the graph was 10 % faster at best (docs/performance.md).

    Args:
        module: whose step it is.
        autocast: makes the context of its forward pass; None for none.
        size: of the batches that it is for.
        last: number of a batch, the epoch's last one, that is taken whatever its size; None for none.
    """

    def __init__(
        self,
        module: Supervised,
        autocast: Callable[[], AbstractContextManager[Any]] | None,
        size: int,
        last: int | None,
    ) -> None:
        from torch._dynamo import config

        config.trace_autograd_ops = True
        # dynamic=False would do for one graph what this does for all, and set it anew at each call: 0.02 ms
        config.automatic_dynamic_shapes = False
        self.module, self.autocast, self.size, self.last = module, autocast or nullcontext, size, last
        self.compiled: Any = torch.compile(self._differentiate, fullgraph=True)
        self.told: set[int] = set()  # sizes of batches that it was compiled for

    def takes(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> bool:
        """Whether it is for this batch; each size has a graph of its own."""
        return batch[1].shape[0] == self.size or batch_idx == self.last

    def differentiate(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Set the gradients, which were None, and return the loss.

        Raises:
            Exception: of many types, where torch cannot compile this.
        """
        begun, size = time.perf_counter(), batch[1].shape[0]
        loss, outputs = self.compiled(*batch)
        if size not in self.told:
            seconds = time.perf_counter() - begun
            print(f"compile=step: compiled for batches of {size} in {seconds:.1f} s", flush=True)
            self.told.add(size)
        self.module.train_metrics.add(batch_idx, loss, outputs, batch[1])
        return loss

    def _differentiate(self, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        with self.autocast():
            outputs = self.module.model(inputs)
            loss = self.module.compute_loss(inputs, outputs, targets)
        loss.backward()
        return loss.detach(), outputs.detach()


def can_trace_backward() -> bool:
    """Whether the installed torch can take a backward pass into a graph."""
    from torch._dynamo import config

    return hasattr(config, "trace_autograd_ops")
