"""Networks are sized from the data and start as their papers say."""

import importlib.util
import math
from typing import Any

import pytest
import torch
from torch import nn

from descent import models
from descent.errors import ConfigError


@pytest.mark.parametrize(
    ("kind", "sizes"),
    [
        (models.Linear, {"bias": True}),
        (models.MLP, {"hidden": [16, 12], "dropout": 0.5}),
        (models.MLP, {"hidden": [], "dropout": 0.0}),
        (models.CNN, {"channels": [8, 16, 32, 64], "dropout": 0.1}),
    ],
)
def test_inputs_of_the_datas_shape_become_its_outputs(kind: Any, sizes: Any) -> None:
    for shape in ((1, 8, 8), (3, 32, 32), (1, 1, 5)):
        assert kind(shape, 7, **sizes)(torch.randn(5, *shape)).shape == (5, 7)


def test_hidden_layers_start_as_he_et_al_derived_and_0_dropout_is_no_layer() -> None:
    mlp: Any = models.MLP((400,), 10, hidden=[300], dropout=0.0)
    assert mlp[1].weight.std().item() == pytest.approx(math.sqrt(2 / 400), rel=0.02)
    assert not mlp[1].bias.any()
    assert not any(isinstance(layer, nn.Dropout) for layer in mlp)


def test_sizes_that_can_not_be_are_named() -> None:
    with pytest.raises(ConfigError, match=r"^hidden=\[0\]: expected "):
        models.MLP((4,), 2, hidden=[0], dropout=0.0)
    with pytest.raises(ConfigError, match=r"model=cnn: expected images.*\(10,\); model=mlp takes any shape"):
        models.CNN((10,), 2, channels=[8], dropout=0.0)


def test_timm_networks_are_sized_from_the_data_or_timm_says_how_to_install_it() -> None:
    if importlib.util.find_spec("timm") is None:
        with pytest.raises(ConfigError, match=r"uv sync --extra timm"):
            models.timm((3, 32, 32), 10, name="resnet18", pretrained=False)
        return
    network = models.timm((1, 32, 32), 7, name="resnet18", pretrained=False)
    assert network(torch.randn(2, 1, 32, 32)).shape == (2, 7)
    with pytest.raises(ConfigError, match=r"name=resnet1: .*nearest: resnet1"):
        models.timm((3, 32, 32), 10, name="resnet1", pretrained=False)
