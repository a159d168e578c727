"""What TensorBoard shows besides the curves: their layout, the model's graph, and the hyperparameters."""

import warnings
from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

import torch
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from torch import Tensor, nn
from torch.utils.tensorboard.summary import hparams

from descent.data.described import find_sizes
from descent.run.folder import RunFolder

FIRST = ("loss", "optimizer", "optimizer.lr", "seed")  # the first columns of the HPARAMS page


def add_run(writer: Any, folder: RunFolder, module: Any, data: Any) -> None:
    """Add the config, the graph, and a chart for each metric of training and validation."""
    for file in (folder.config, folder.overrides, folder.data):
        writer.add_text(file.name, f"```yaml\n{file.read_text(encoding='utf-8')}\n```")
    logged = module.list_logged() if hasattr(module, "list_logged") else ["train/loss"]
    names = dict.fromkeys(name.partition("/")[2] for name in logged)
    charts = {name: ["Multiline", [f"train/{name}", f"val/{name}"]] for name in names}
    charts |= {name: ["Multiline", [name]] for name in ("lr", "grad_norm", "samples_per_second")}
    writer.add_custom_scalars({"run": charts})
    shape = find_sizes(data).get("input_shape")
    if shape and hasattr(module, "model"):
        add_graph(writer, module.model, torch.zeros(1, *shape, device=module.device))


def add_graph(writer: Any, model: nn.Module, inputs: Tensor) -> None:
    """Trace a copy of the network, uncompiled and in eval mode, on one sample."""
    try:
        with torch.random.fork_rng(), torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a network that draws random numbers is traced anyway
            writer.add_graph(deepcopy(model).eval(), inputs)
    except Exception:  # a network that cannot be traced, or is sharded, still trains
        print("The model's graph is not in TensorBoard: torch cannot trace this model")


def add_hyperparameters(writer: Any, hyperparameters: Mapping[str, Any], curves: Sequence[str]) -> None:
    """Add a row to TensorBoard's HPARAMS page, whose metrics are the last points of the named curves.

    `SummaryWriter.add_hparams` would write those points again, to a separate run.
    """
    values = {k: v if isinstance(v, bool | int | float | str) else str(v) for k, v in hyperparameters.items()}
    experiment, *others = hparams(values, dict.fromkeys(curves, 0.0))
    content = HParamsPluginData.FromString(experiment.value[0].metadata.plugin_data.content)
    for info in content.experiment.hparam_infos:  # TensorBoard first shows what is marked as differing
        info.differs = info.name in FIRST
    experiment.value[0].metadata.plugin_data.content = content.SerializeToString()
    for summary in (experiment, *others):
        writer.file_writer.add_summary(summary)
