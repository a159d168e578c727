"""Networks sized by the data: `input_shape` of one sample, and `outputs`, classes or values."""

from collections.abc import Sequence
from itertools import pairwise
from math import prod

import torch
from torch import nn

from descent.errors import ConfigError, require, require_one_of


class Linear(nn.Sequential):
    """Flatten, then one linear layer: softmax regression or linear regression, depending on the loss."""

    def __init__(self, input_shape: Sequence[int], outputs: int, bias: bool) -> None:
        super().__init__(nn.Flatten(), nn.Linear(prod(input_shape), outputs, bias=bias))


class MLP(nn.Sequential):
    """Flatten, then hidden layers of `hidden` units, each followed by ReLU and dropout, then a linear layer.

    Weights before a ReLU are initialised as in He et al. (2015), normal with variance `2 / fan_in`, with
    zero biases; the output layer keeps torch's smaller default, so that the first logits are near zero.
    """

    def __init__(self, input_shape: Sequence[int], outputs: int, hidden: list[int], dropout: float) -> None:
        require(all(n >= 1 for n in hidden), "hidden", hidden, "a list of whole numbers of at least 1")
        sizes = [prod(input_shape), *hidden]
        layers: list[nn.Module] = [nn.Flatten()]
        for fan_in, fan_out in pairwise(sizes):
            layers += [initialise(nn.Linear(fan_in, fan_out)), nn.ReLU()]
            layers += [nn.Dropout(dropout)] if dropout else []
        super().__init__(*layers, nn.Linear(sizes[-1], outputs))


class CNN(nn.Sequential):
    """Blocks of a 3×3 convolution, batch normalisation, ReLU and 2×2 max pooling, then the mean over space
    and a linear layer.

    Each block has its number of output channels, and halves the image until a side has only one pixel.
    """

    def __init__(self, input_shape: Sequence[int], outputs: int, channels: list[int], dropout: float) -> None:
        require_images("cnn", input_shape)
        require(min(channels, default=0) >= 1, "channels", channels, "a list of whole numbers of at least 1")
        layers: list[nn.Module] = []
        size = min(input_shape[1:])
        for fan_in, fan_out in pairwise([input_shape[0], *channels]):
            convolution = nn.Conv2d(fan_in, fan_out, kernel_size=3, padding=1, bias=False)
            layers += [initialise(convolution), nn.BatchNorm2d(fan_out), nn.ReLU()]
            layers += [nn.MaxPool2d(2)] if size >= 2 else []
            size //= 2
        layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        layers += [nn.Dropout(dropout)] if dropout else []
        super().__init__(*layers, nn.Linear(channels[-1], outputs))
        # up to 1.7 times as fast; see benchmarks/layout.py
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def timm(input_shape: Sequence[int], outputs: int, name: str, pretrained: bool) -> nn.Module:
    """Return a network of the timm library (https://huggingface.co/docs/timm), an optional dependency.

    `pretrained` starts from published weights, which needs a network connection once.
    """
    try:
        import timm as library
    except ImportError as error:
        expected = f"timm to be installed; `uv sync --extra timm` or `pip install -e '.[timm]'` ({error})"
        raise ConfigError("model", "timm", expected=expected) from error
    require_images("timm", input_shape)
    require_one_of(library.list_models(), "name", name, "an architecture of timm")
    return library.create_model(name, pretrained=pretrained, num_classes=outputs, in_chans=input_shape[0])


def require_images(model: str, shape: Sequence[int]) -> None:
    """Raise a `ConfigError` unless samples are images of shape (channels, height, width)."""
    expected = f"images, but a sample of this data has shape {tuple(shape)}; model=mlp takes any shape"
    require(len(shape) == 3, "model", model, expected)


def initialise(layer: nn.Linear | nn.Conv2d) -> nn.Module:
    """Draw weights with the variance that a ReLU keeps (He et al., "Delving Deep into Rectifiers", 2015)."""
    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer
