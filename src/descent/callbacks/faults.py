"""Losses and gradients that are not numbers, found without making the host wait for the device."""

from collections.abc import Iterable
from math import inf, isfinite
from typing import Any

import torch
from torch import Tensor, nn

LAG = 64  # steps on a GPU between two looks at the losses


class Losses:
    """Watches the training loss: on the CPU at each step; on a device in blocks that have long been computed.

    A block of `LAG` losses is copied to the host while the next block is being computed, so that nothing
    waits; a bad loss is seen at most `2 * LAG` steps late.
    """

    def __init__(self) -> None:
        self.last_finite: float | None = None
        self.block: list[Tensor] = []
        self.copied: tuple[Tensor, Any] | None = None

    def bad(self, loss: Tensor) -> tuple[int, float] | None:
        """How many steps ago the first loss was that is not finite, and its value; None if there is none."""
        if loss.device.type == "cpu":
            value = loss.item()
            if isfinite(value):
                self.last_finite = value
                return None
            return 0, value
        self.block.append(loss)
        return self._exchange() if len(self.block) == LAG else None

    def all_bad(self) -> tuple[int, float] | None:
        """The same of all losses so far; waits for the device."""
        found = self._exchange() if self.block else None
        return found or (self._exchange() if self.copied else None)

    def _exchange(self) -> tuple[int, float] | None:
        """Send off the losses since the last exchange, and look at those that were sent off before."""
        arrived, sent = self.copied, len(self.block)
        self.copied = to_host(torch.stack(self.block)) if self.block else None
        self.block = []
        if arrived is None:
            return None
        values, event = arrived
        if event is not None:
            event.synchronize()
        for index, value in enumerate(values.tolist()):
            if not isfinite(value):
                return sent + len(values) - 1 - index, value
            self.last_finite = value
        return None


def to_host(values: Tensor) -> tuple[Tensor, Any]:
    """A copy on the CPU, and on CUDA the event after which it is there."""
    if values.device.type != "cuda":
        return values.cpu(), None
    host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
    host.copy_(values, non_blocking=True)
    event = torch.cuda.Event()
    event.record()
    return host, event


def finite_gradients(parameters: Iterable[nn.Parameter]) -> bool:
    """Whether every gradient is a number; waits for the device."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    # the largest magnitude is NaN where any element is
    return not gradients or isfinite(nn.utils.get_total_norm(gradients, norm_type=inf).item())


def finite_weights(model: nn.Module) -> bool:
    """Whether every parameter is a number; waits for the device."""
    return all(bool(p.isfinite().all()) for p in model.parameters())


def rows_not_finite(batch: Any) -> list[int]:
    """The samples of a batch whose inputs or targets hold NaN or infinity."""
    tensors = [t for t in batch if isinstance(t, Tensor) and t.is_floating_point()] if batch else []
    bad = [~t.flatten(1).isfinite().all(1) if t.dim() > 1 else ~t.isfinite() for t in tensors]
    return torch.stack(bad).any(0).nonzero().flatten().tolist() if bad else []
