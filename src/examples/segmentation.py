"""A class for each pixel: discs and squares on noise, a small U-Net, Dice and cross entropy."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from descent.data.samples import Samples


def shapes(count: int, size: int, noise: float) -> Samples:
    """Return images `(count, 1, size, size)`, each with a disc and a square, and a class for each pixel."""
    generator = torch.Generator().manual_seed(0)  # the data set is the same, whatever a run's seed
    down, right = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    # centre and half the width of each of the two shapes, `(2, count, 1, 1)`
    y, x = (torch.randint(size // 5, size - size // 5, (2, count, 1, 1), generator=generator) for _ in "yx")
    half = torch.randint(size // 8, size // 4, (2, count, 1, 1), generator=generator)
    across, along = (down - y).abs(), (right - x).abs()
    disc, square = (across.square() + along.square() < half**2)[0], (torch.maximum(across, along) < half)[1]
    masks = torch.where(square, 2, torch.where(disc, 1, 0))
    brightness = torch.tensor([0.0, 1.0, 1.0])  # the shape tells disc from square, not the brightness
    images = brightness[masks] + noise * torch.randn(masks.shape, generator=generator)
    return Samples(images[:, None], masks, ["ground", "disc", "square"], per_channel=True)


class DiceAndCrossEntropy(nn.Module):
    """Cross entropy, plus one minus how far prediction and truth overlap (Milletari et al., 2016).

    Cross entropy counts pixels, so a large background outweighs small shapes; overlap counts classes alike.
    """

    def __init__(self, dice: float) -> None:
        super().__init__()
        self.dice = dice

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Return the loss of logits `(n, classes, height, width)` and classes `(n, height, width)`."""
        there = F.one_hot(target, input.shape[1]).movedim(-1, 1)
        seen = input.softmax(1)
        overlap = 2 * (seen * there).sum((0, 2, 3)) / (seen + there).sum((0, 2, 3)).clamp(min=1e-6)
        return F.cross_entropy(input, target) + self.dice * (1 - overlap.mean())


class UNet(nn.Module):
    """A U-Net: down for context, and up again with the features of each size (Ronneberger et al., 2015).

    Args:
        input_shape: `(channels, height, width)`; the last two are multiples of `2 ** (len(channels) - 1)`.
        outputs: number of classes.
        channels: of each size, from the whole image down.
    """

    def __init__(self, input_shape: Sequence[int], outputs: int, channels: list[int]) -> None:
        super().__init__()
        inwards = [input_shape[0], *channels[:-1]]
        self.down = nn.ModuleList(convolve(a, b) for a, b in zip(inwards, channels, strict=True))
        pairs = list(zip(channels[1:], channels, strict=False))[::-1]
        self.up = nn.ModuleList(convolve(deep + shallow, shallow) for deep, shallow in pairs)
        self.head = nn.Conv2d(channels[0], outputs, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits `(n, outputs, height, width)`."""
        kept: list[Tensor] = []
        for block in self.down:
            x = block(F.max_pool2d(x, 2) if kept else x)
            kept.append(x)
        for block, beside in zip(self.up, kept[-2::-1], strict=True):
            x = block(torch.cat([F.interpolate(x, scale_factor=2.0), beside], 1))
        return self.head(x)


def convolve(inputs: int, outputs: int) -> nn.Sequential:
    """Return a 3×3 convolution that keeps the size, with batch normalisation and ReLU."""
    convolution = nn.Conv2d(inputs, outputs, kernel_size=3, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU())
