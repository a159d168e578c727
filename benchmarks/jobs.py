"""The jobs that `speed.py` times: data, network and loss of each, the same for every contender.

Digits are real. The three large sets are random numbers of the stated shapes: time does not depend on
values, and nothing is downloaded. This file imports torch alone, so that the limit's start is torch's.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Job:
    """`samples` are those of the training split; validation and test have an eighth of that each.

    Words are what the template is started with, besides its batch size and number of epochs.
    """

    title: str
    samples: int
    shape: tuple[int, ...]
    outputs: int
    batch_size: int
    epochs: int
    words: tuple[str, ...] = ()
    channels: tuple[int, ...] = ()
    real_values: bool = False
    half: bool = False  # bf16-mixed

    def model(self) -> nn.Module:
        """What the template builds for the same data: an MLP of one hidden layer, or a small CNN."""
        layers: list[nn.Module] = []
        if self.channels:
            for fan_in, fan_out in zip((self.shape[0], *self.channels), self.channels, strict=False):
                convolution = nn.Conv2d(fan_in, fan_out, 3, padding=1, bias=False)
                layers += [convolution, nn.BatchNorm2d(fan_out), nn.ReLU(), nn.MaxPool2d(2)]
            layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(self.channels[-1], self.outputs)]
        else:
            features = torch.Size(self.shape).numel()
            layers += [nn.Flatten(), nn.Linear(features, 256), nn.ReLU(), nn.Linear(256, self.outputs)]
        return nn.Sequential(*layers)

    def criterion(self) -> nn.Module:
        return MeanAbsoluteError() if self.real_values else nn.CrossEntropyLoss()

    def splits(self) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Training and validation data, inputs float32."""
        if self.shape == (1, 8, 8):
            table = digits()
            inputs, targets = table[:, :-1].reshape(-1, *self.shape) / 16, table[:, -1].long()
        else:
            inputs, targets = draw(
                self.samples + self.samples // 8, self.shape, self.outputs, self.real_values
            )
        split = self.samples
        validation = slice(split, split + self.samples // 8)
        return (inputs[:split], targets[:split]), (inputs[validation], targets[validation])


def digits() -> Tensor:
    """The digits that are part of the template: 64 pixels and the class of each."""
    path = Path(__file__).resolve().parents[1] / "src/descent/data/bundled/digits.csv.gz"
    return torch.from_numpy(np.loadtxt(path, delimiter=",", dtype=np.float32))


class MeanAbsoluteError(nn.Module):
    """The tutorial's."""

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return (1 / len(input)) * torch.sum(torch.abs(input - target))


def draw(n: int, shape: tuple[int, ...], outputs: int, real_values: bool) -> tuple[Tensor, Tensor]:
    """Random inputs `(n, *shape)`, float32, and classes `(n,)` or values `(n, outputs)`."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(n, *shape, generator=generator)
    if real_values:
        return inputs, inputs[:, :outputs] + torch.randn(n, outputs, generator=generator)
    return inputs, torch.randint(outputs, (n,), generator=generator)


IMAGES = ("data=samples", "data.source._target_=for_descent.images")
SMALL_CNN = ("model=cnn", "model.channels=[16,32]")
BF16 = "trainer.precision=bf16-mixed"
ROWS = ("data=samples", "data.source._target_=for_descent.rows", "loss=mae")
JOBS = {
    "digits-64": Job("digits, MLP, batch 64", 1437, (1, 8, 8), 10, 64, 20),
    "images-64": Job("60,000 images 28×28, MLP, batch 64", 60_000, (1, 28, 28), 10, 64, 4, IMAGES),
    "images-256": Job("60,000 images 28×28, MLP, batch 256", 60_000, (1, 28, 28), 10, 256, 4, IMAGES),
    "cnn-128": Job(
        "50,000 images 3×32×32, CNN, batch 128",
        50_000,
        (3, 32, 32),
        10,
        128,
        3,
        (*IMAGES, *SMALL_CNN),
        (16, 32),
    ),
    "images-4096": Job("60,000 images 28×28, MLP, batch 4,096", 60_000, (1, 28, 28), 10, 4096, 12, IMAGES),
    "cnn-512-bf16": Job(
        "50,000 images 3×32×32, CNN in bf16, batch 512",
        50_000,
        (3, 32, 32),
        10,
        512,
        6,
        (*IMAGES, *SMALL_CNN, BF16),
        (16, 32),
        half=True,
    ),
    "cnn-2048-bf16": Job(
        "50,000 images 3×32×32, CNN in bf16, batch 2,048",
        50_000,
        (3, 32, 32),
        10,
        2048,
        8,
        (*IMAGES, *SMALL_CNN, BF16),
        (16, 32),
        half=True,
    ),
    "rows-256": Job("1,000,000 rows of 32, MAE, batch 256", 1_000_000, (32,), 1, 256, 3, ROWS, (), True),
    "rows-4096": Job("1,000,000 rows of 32, MAE, batch 4,096", 1_000_000, (32,), 1, 4096, 5, ROWS, (), True),
}
