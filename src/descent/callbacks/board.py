"""What TensorBoard shows besides the curves: their layout, the model's graph, and the hyperparameters."""

import warnings
from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

import torch
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from torch import Tensor, nn
from torch.utils.tensorboard.summary import hparams

FIRST = ("loss", "optimizer", "optimizer.lr", "seed")  # the first columns of the HPARAMS page


def add_layout(writer: Any, logged: Sequence[str]) -> None:
    """Put training and validation into one chart for each metric, and the learning rate after them."""
    names = list(dict.fromkeys(name.partition("/")[2] for name in logged)) or ["loss"]
    charts = {name: ["Multiline", [f"train/{name}", f"val/{name}"]] for name in names}
    writer.add_custom_scalars(
        {"run": {**charts, "lr": ["Multiline", ["lr"]], "grad_norm": ["Multiline", ["grad_norm"]]}}
    )


def add_graph(writer: Any, model: nn.Module, inputs: Tensor) -> None:
    """Trace a copy of the network, uncompiled and in eval mode, on one sample."""
    try:
        with torch.random.fork_rng(), torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a network that draws random numbers is traced anyway
            writer.add_graph(deepcopy(model).eval(), inputs)
    except (RuntimeError, TypeError, ValueError, IndexError):  # a network that cannot be traced still trains
        print("The model's graph is not in TensorBoard: torch cannot trace this model")


def add_hyperparameters(writer: Any, hyperparameters: Mapping[str, Any], names: Sequence[str]) -> None:
    """Add a row to TensorBoard's HPARAMS page, whose metrics are the last points of the named curves.

    `SummaryWriter.add_hparams` would write those points again, to a separate run.
    """
    values = {k: v if isinstance(v, bool | int | float | str) else str(v) for k, v in hyperparameters.items()}
    experiment, *others = hparams(values, {name: 0.0 for name in names if "/" in name})
    content = HParamsPluginData.FromString(experiment.value[0].metadata.plugin_data.content)
    for info in content.experiment.hparam_infos:  # TensorBoard first shows what is marked as differing
        info.differs = info.name in FIRST
    experiment.value[0].metadata.plugin_data.content = content.SerializeToString()
    for summary in (experiment, *others):
        writer.file_writer.add_summary(summary)
