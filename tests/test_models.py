"""Networks are sized from the data and start as their papers say."""

import importlib.util
import math
from typing import Any

import pytest
import torch
from torch import nn

from descent import models
from descent.errors import ConfigError


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 32), (1, 1, 5)])
@pytest.mark.parametrize(
    "build",
    [
        lambda shape: models.Linear(shape, 7, bias=True),
        lambda shape: models.MLP(shape, 7, hidden=[16, 12], dropout=0.5),
        lambda shape: models.MLP(shape, 7, hidden=[], dropout=0.0),
        lambda shape: models.CNN(shape, 7, channels=[8, 16, 32, 64], dropout=0.1),
    ],
)
def test_inputs_of_the_datas_shape_become_its_outputs(build: type[nn.Module], shape: tuple[int, ...]) -> None:
    assert build(shape)(torch.randn(5, *shape)).shape == (5, 7)


def test_hidden_layers_start_as_he_et_al_derived() -> None:
    mlp = models.MLP((400,), 10, hidden=[300], dropout=0.0)
    first = mlp[1]
    assert isinstance(first, nn.Linear)
    assert first.weight.std().item() == pytest.approx(math.sqrt(2 / 400), rel=0.02)
    assert not first.bias.any()


def test_without_dropout_there_is_no_dropout_layer() -> None:
    assert not any(isinstance(layer, nn.Dropout) for layer in models.MLP((4,), 2, hidden=[3], dropout=0.0))


@pytest.mark.parametrize("fields", [{"hidden": [0], "dropout": 0.0}, {"hidden": [4], "dropout": 1.0}])
def test_sizes_that_can_not_be_are_named(fields: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"^(hidden=\[0\]|dropout=1.0): expected "):
        models.MLP((4,), 2, **fields)


def test_a_cnn_refuses_rows_and_says_what_takes_them() -> None:
    with pytest.raises(ConfigError, match=r"model=cnn: expected images.*\(10,\); model=mlp takes any shape"):
        models.CNN((10,), 2, channels=[8], dropout=0.0)


@pytest.mark.skipif(importlib.util.find_spec("timm") is not None, reason="timm is installed")
def test_timm_that_is_missing_says_how_to_install_it() -> None:
    with pytest.raises(ConfigError, match=r"uv sync --extra timm"):
        models.timm((3, 32, 32), 10, name="resnet18", pretrained=False)


@pytest.mark.skipif(importlib.util.find_spec("timm") is None, reason="timm is not installed")
def test_timm_networks_are_sized_from_the_data() -> None:
    assert models.timm((1, 32, 32), 7, name="resnet18", pretrained=False)(
        torch.randn(2, 1, 32, 32)
    ).shape == (2, 7)
    with pytest.raises(ConfigError, match=r"name=resnet1: .*nearest: resnet1"):
        models.timm((3, 32, 32), 10, name="resnet1", pretrained=False)
