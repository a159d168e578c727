"""Every file of conf/: it composes, lists what is installed, and trains."""

import inspect
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fuzz
import pytest
import torch
from conftest import finish

from descent.build import build_node, locate, read_signature
from descent.cli.check import check
from descent.cli.compose import compose
from descent.paths import CONF, list_choices, list_groups

CHOICES = [(group, word) for group in list_groups() for word in list_choices(group)]
NEEDS_EXTRA = {"mnist", "fashion_mnist", "cifar10", "timm"}
NEWER_THAN_SOME = {("torch.optim.LBFGS", "maximize")}  # arguments that the oldest supported torch lacks
FILLED = {  # by code, or left to Lightning's own way
    "optimizer": {"params"},
    "trainer": {"callbacks", "logger", "default_root_dir", "batches"},
    "model": {"input_shape", "outputs"},
    "scheduler": {"optimizer"},
    "loss": {"size_average", "reduce", "task"},  # two deprecated by torch, in favour of `reduction`
    "logger": {"root_dir"},  # TensorBoard's, which gets save_dir for it
    "data": {"like", "task"},
    "module": {"model", "criterion", "optimizer", "schedule", "metrics", "scaling", "task"},
}


def config_of(*words: str) -> dict[str, Any]:
    if "data=samples" in words:  # a function of one's own
        words = (*words, "data.source._target_=descent.data.digits.digits")
    return compose("train", ["name=test", "folder=run", *words]).config


def targets(node: Any, key: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every part of a config that names a class or function, with its key."""
    if isinstance(node, dict):
        if "_target_" in node:
            yield key, node
        for name, value in node.items():
            yield from targets(value, f"{key}.{name}")


@pytest.mark.parametrize(("group", "word"), CHOICES)
def test_a_choice_says_what_it_is_and_every_value_is_what_its_target_takes(group: str, word: str) -> None:
    lines = (CONF / group / f"{word}.yaml").read_text(encoding="utf-8").splitlines()
    line = next(line for line in lines if "@package" not in line)
    assert line.startswith("# ")
    assert 10 < len(line) < 115
    config = config_of(f"{group}={word}")
    check("train", config, {})
    for key, node in targets(config.get(group), group):
        inner = [
            value["_target_"] for value in node.values() if isinstance(value, dict) and "_target_" in value
        ]
        taken = set().union(*(read_signature(locate(key, t)).names for t in (node["_target_"], *inner)))
        listed = {name for name in node if not name.startswith("_")}
        listed -= {name for target, name in NEWER_THAN_SOME if target == node["_target_"]}
        assert listed <= taken or read_signature(locate(key, node["_target_"])).open_ended, key
        if group in ("optimizer", "callbacks") or key == "trainer":
            own = read_signature(locate(key, node["_target_"])).names
            missing = own - listed - FILLED.get(group, set()) - {name for _, name in NEWER_THAN_SOME}
            assert not missing, f"{key}: {missing} of {node['_target_']} is not listed"


@pytest.mark.parametrize("word", [w for w in list_choices("optimizer") if w not in ("sparse_adam", "muon")])
def test_an_optimizers_defaults_are_torchs_but_for_those_the_file_explains(word: str) -> None:
    node = config_of(f"optimizer={word}")["optimizer"]
    own = {
        "adam": {"fused"},
        "adamw": {"fused"},
        "sgd": {"lr"},
        "rmsprop": {"lr"},
        "lbfgs": {"lr", "max_iter", "history_size"},
    }.get(word, set())
    for name, parameter in inspect.signature(locate("optimizer", node["_target_"])).parameters.items():
        if name in node and name not in own and parameter.default is not inspect.Parameter.empty:
            value = tuple(node[name]) if isinstance(node[name], list) else node[name]
            assert value == parameter.default, name


def test_nothing_of_torch_optim_is_missing() -> None:
    offered = {
        config_of(f"optimizer={word}")["optimizer"]["_target_"].rpartition(".")[2]
        for word in list_choices("optimizer")
    }
    known = {name for name, value in vars(torch.optim).items() if inspect.isclass(value)} - {"Optimizer"}
    assert known <= offered


@pytest.mark.parametrize(
    "word", sorted({*list_choices("data")} - NEEDS_EXTRA - {"table", "images", "arrays"})
)
def test_every_data_set_that_comes_with_a_package_builds(word: str) -> None:
    data = build_node("data", config_of(f"data={word}")["data"])
    inputs, _ = next(iter(data.train_dataloader()))
    assert inputs.shape[1:] == data.sizes["input_shape"]


def test_every_choice_trains(tmp_path: Path) -> None:
    other = {"scheduler": ["optimizer=sgd", "optimizer.momentum=0.9"], "metrics": ["loss=mse"]}
    not_alone = {
        *NEEDS_EXTRA,
        "sparse_adam",
        "fsdp",
        "ddp",
        "table",
        "images",
        "arrays",
        "samples",
        "comet",
        "mlflow",
        "wandb",
    }
    values = {"mae", "mape", "r2", "regression_full", "rmse", "spearman"}  # metrics of real values
    lines = []
    for group, word in CHOICES:
        missing = word == "muon" and not hasattr(torch.optim, "Muon")
        if word in not_alone or group in ("search", "experiment", "executor") or missing:
            continue
        data = ["data=diabetes"] if group == "metrics" and word in values else []
        lines.append(
            [f"{group}={word}", *data, *(other.get(group, []) if data or group != "metrics" else [])]
        )
    lines = [[*line, "trainer.fast_dev_run=2", "trainer.accelerator=cpu"] for line in lines]
    (tmp_path / "lines.json").write_text(json.dumps(lines))
    finished = finish([fuzz.__file__, "lines.json"], tmp_path, {}, timeout=400)
    tried = [json.loads(line) for line in finished.out.splitlines()]
    assert len(tried) == len(lines), finished.err
    assert not [one for one in tried if one["code"] != 0], [one for one in tried if one["code"] != 0][:3]
    assert not [one for one in tried if "loss: nan" in one["out"].lower()]
