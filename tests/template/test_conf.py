"""Every file of conf/: it composes, and lists what is installed; tests/test_project.py trains it."""

import inspect
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from typing import Any

import pytest
import torch

from descent.build import locate, read_signature
from descent.cli.check import check
from descent.cli.compose import compose
from descent.paths import list_choices, list_groups

CHOICES = {group: [*list_choices(group)] for group in list_groups()}
NEWER_THAN_SOME = {("torch.optim.LBFGS", "maximize")}  # arguments that the oldest supported torch lacks
FILLED = {  # by code, or left to Lightning's own way
    "optimizer": {"params"},
    "trainer": {"callbacks", "logger", "default_root_dir", "batches"},
}


@cache
def config_of(group: str, word: str) -> dict[str, Any]:
    own = ["data.source._target_=descent.data.digits.digits"] if word == "samples" else []
    return compose("train", ["name=test", "folder=run", f"{group}={word}", *own]).config


def targets(node: Any, key: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every part of a config that names a class or function, with its key."""
    if isinstance(node, dict):
        if "_target_" in node:
            yield key, node
        for name, value in node.items():
            yield from targets(value, f"{key}.{name}")


@pytest.mark.parametrize("group", CHOICES)
def test_every_value_is_what_its_target_takes_and_what_it_takes_is_listed(group: str) -> None:
    for word in CHOICES[group]:
        config = config_of(group, word)
        if group == "search" and find_spec("optuna") is None and word not in ("none", "grid"):
            continue
        if word == "muon" and not hasattr(torch.optim, "Muon"):
            continue
        check("train", config, {})
        for key, node in targets(config.get(group), group):
            inner = [v["_target_"] for v in node.values() if isinstance(v, dict) and "_target_" in v]
            own, *others = (read_signature(locate(key, target)) for target in (node["_target_"], *inner))
            newer = {name for target, name in NEWER_THAN_SOME if target == node["_target_"]}
            listed = {name for name in node if not name.startswith("_")} - newer
            assert own.open_ended or listed <= own.names.union(*(other.names for other in others)), key
            if group in ("optimizer", "callbacks") or key == "trainer":
                missing = own.names - listed - FILLED.get(group, set()) - newer
                assert not missing, f"{key}: {missing} of {node['_target_']} is not listed"


def test_optimizers_are_all_of_torchs_with_its_defaults_but_for_those_the_file_explains() -> None:
    own = {"adam": {"fused"}, "adamw": {"fused"}, "sgd": {"lr"}, "rmsprop": {"lr"}}
    own["lbfgs"] = {"lr", "max_iter", "history_size"}
    offered = set()
    for word in CHOICES["optimizer"]:
        node = config_of("optimizer", word)["optimizer"]
        offered.add(node["_target_"].rpartition(".")[2])
        if word in ("sparse_adam", "muon"):
            continue
        for name, parameter in inspect.signature(locate("optimizer", node["_target_"])).parameters.items():
            if name in node and name not in own.get(word, ()) and parameter.default is not parameter.empty:
                value = tuple(node[name]) if isinstance(node[name], list) else node[name]
                assert value == parameter.default, (word, name)
    known = {name for name, value in vars(torch.optim).items() if inspect.isclass(value)} - {"Optimizer"}
    assert known <= offered
