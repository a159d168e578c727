"""Losses and gradients that are not numbers, found without making the host wait for the device."""

from collections.abc import Iterable
from dataclasses import dataclass
from math import inf, isfinite
from typing import Any

import torch
from torch import Tensor, nn

LAG = 64  # steps on a GPU between two looks at the losses
Place = tuple[int, int, int]  # optimizer step, batch of the epoch, epoch


@dataclass
class Fault:
    """A loss that is no number: its value, and where it came up."""

    value: float
    step: int
    batch: int
    epoch: int


class Losses:
    """Watches the training loss: on the CPU at each step; on a device in blocks that have long been computed.

    A block of `LAG` losses is copied to the host while the next block is being computed, so that nothing
    waits; a bad loss is seen at most `2 * LAG` steps late.
    """

    def __init__(self) -> None:
        self.last_finite: float | None = None
        self.block: list[tuple[Tensor, Place]] = []
        self.copied: tuple[Tensor, Any, list[Place]] | None = None

    def look(self, loss: Tensor, place: Place) -> Fault | None:
        """The first loss that is known by now not to be finite.

        Args:
            loss: scalar.
            place: its step, its batch in the epoch, and the epoch.
        """
        if loss.device.type == "cpu":
            return self._judge(loss.item(), place)
        self.block.append((loss, place))
        return self._exchange() if len(self.block) == LAG else None

    def look_at_all(self) -> Fault | None:
        """The same of all losses so far; waits for the device."""
        found = self._exchange() if self.block else None
        return found or (self._exchange() if self.copied else None)

    def _judge(self, value: float, place: Place) -> Fault | None:
        if not isfinite(value):
            return Fault(value, *place)
        self.last_finite = value
        return None

    def _exchange(self) -> Fault | None:
        """Send off the losses since the last exchange, and look at those that were sent off before."""
        arrived, self.copied = self.copied, None
        if self.block:
            losses, places = zip(*self.block, strict=True)
            self.copied = (*to_host(torch.stack(losses)), list(places))
            self.block = []
        if arrived is None:
            return None
        values, event, places_before = arrived
        if event is not None:
            event.synchronize()
        for value, place in zip(values.tolist(), places_before, strict=True):
            if fault := self._judge(value, place):
                return fault
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
