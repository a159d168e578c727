"""Scales raw inputs for the network: an encoder, then the training split's mean and deviation."""

from typing import Any

import torch
from torch import Tensor, nn

COARSE = (torch.uint8, torch.int8, torch.float16, torch.bfloat16)  # types that float32 centres exactly


class Precise(nn.Module):
    """A module whose buffers stay float64 at any precision; on the CPU for MPS, which lacks float64."""

    def _apply(self, fn: Any, recurse: bool = True) -> "Precise":
        for module in self.modules():
            for name, value in module._buffers.items():
                if value is not None:
                    device = fn(torch.empty(0, device=value.device)).device
                    module._buffers[name] = value.to("cpu" if device.type == "mps" else device)
        return self


class Scaling(Precise):
    """Turns raw inputs into what the network sees, in training, prediction and export.

    Numbers are centred and divided in float64 and then cast, so that a Unix second or a small difference of
    large values is not lost; bytes are scaled in float32.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Tensor, std: Tensor, encoder: nn.Module | None = None) -> None:
        super().__init__()
        self.encoder = encoder
        self.register_buffer("mean", mean.double())
        self.register_buffer("std", std.double())

    def forward(self, inputs: Tensor) -> Tensor:
        """Turn raw inputs `(batch, …)` of any dtype into float32 `(batch, *input_shape)`."""
        if self.encoder is not None:
            inputs = self.encoder(inputs)
        coarse = inputs.dtype in COARSE or inputs.device.type == "mps"
        dtype = torch.float32 if coarse else torch.float64
        mean, std = (value.to(dtype).to(inputs.device) for value in (self.mean, self.std))
        return inputs.to(dtype).sub(mean).div(std).float()


def find_moments(
    values: Any, rows: Tensor, dims: tuple[int, ...] = (0,), encoder: nn.Module | None = None
) -> tuple[Tensor, Tensor]:
    """Return mean and deviation of some rows over `dims`, float64, shaped to broadcast against one sample.

    Sums are taken relative to the first row, so nothing cancels. A constant has no variance at all, and gets
    a deviation of 1, so that it becomes 0 and not NaN.
    """
    encode, rows = encoder or nn.Identity(), rows.sort().values
    raw = values[rows[:1]]
    first = encode(raw).double()
    shift = first[tuple(slice(1) if d in dims else slice(None) for d in range(first.dim()))]
    total = square = torch.zeros_like(shift)
    for block in rows.split(count_rows(raw)):
        part = encode(values[block]).double() - shift
        total, square = total + part.sum(dims, keepdim=True), square + part.square().sum(dims, keepdim=True)
    n = len(rows) * first.numel() // shift.numel()
    variance = square / n - (total / n).square()
    return (shift + total / n)[0], torch.where(variance > 0, variance.clamp(min=0).sqrt(), 1.0)[0]


def count_rows(one: Tensor) -> int:
    """Return how many rows like this one to work on at once: few enough for the cache, a million numbers."""
    return max(1, (1 << 20) // max(1, one.numel()))
