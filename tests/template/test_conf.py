"""Every file of conf/: it composes, lists what its target takes, and is valid by the schema for editors."""

import inspect
import json
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT
from omegaconf import OmegaConf

from descent.build import locate, read_signature
from descent.cli.check import check
from descent.cli.compose import compose
from descent.cli.schema import FOLDER, describe_conf
from descent.paths import CONF, list_choices, list_groups

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


@pytest.mark.parametrize("group", list_groups())
def test_every_value_is_what_its_target_takes_and_what_it_takes_is_listed(group: str) -> None:
    for word in list_choices(group):
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
    for word in list_choices("optimizer"):
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


# ---- schemas for editors -----------------------------------------------------------------------------------


SCHEMAS = cache(describe_conf)
FILES = sorted(CONF.glob("**/*.yaml"))
WRONG: list[tuple[str, dict[str, Any]]] = [
    ("optimizer", {"_target_": "torch.optim.SGD", "_partial_": True, "lrr": 0.1}),
    ("optimizer", {"_target_": "torch.optim.SGD", "_partial_": True, "lr": "fast"}),
    ("optimizer", {"defaults": ["sgd"], "momentun": 0.9}),
    ("trainer", {"defaults": ["default"], "max_epochs": [3]}),
    ("callbacks", {"a": {"_target_": "lightning.pytorch.callbacks.EarlyStopping", "patience": "long"}}),
    ("callbacks", {"defaults": ["early_stopping"], "early_stopping": {"patence": 3}}),
    ("experiment", {"sead": 3}),
    ("experiment", {"trainer": {"max_epoch": 3}}),
    ("experiment", {"callbacks": {"checkpoint": {"evry": "1epoch"}}}),
    ("train", {"seed": 1.5}),
]
RIGHT: list[tuple[str, dict[str, Any]]] = [  # with a target that the schema does not know, or with references
    ("loss", {"_target_": "my_losses.FocalLoss", "gamma": 2.0}),
    ("optimizer", {"defaults": ["sgd"], "momentum": 0.9, "lr": "${seed}"}),
    ("experiment", {"defaults": [{"override /loss": "mae"}], "trainer": {"max_epochs": 3}}),
]


@cache
def validator(name: str) -> Any:
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.Draft7Validator.check_schema(SCHEMAS()[name])
    return jsonschema.Draft7Validator(SCHEMAS()[name])


def name_of(file: Path) -> str:
    return file.stem if file.parent == CONF else file.parent.name


def test_every_file_is_valid_and_a_wrong_key_or_type_is_not() -> None:
    files = [(name_of(file), OmegaConf.to_container(OmegaConf.load(file))) for file in FILES]
    for name, content in [*files, *RIGHT]:
        assert [error.message for error in validator(name).iter_errors(content)] == [], (name, content)
    for name, content in WRONG:
        assert not validator(name).is_valid(content), (name, content)


def test_the_editor_knows_where_each_schema_belongs() -> None:
    lines = (ROOT / ".vscode/settings.json").read_text(encoding="utf-8").splitlines()
    settings = json.loads("\n".join(line for line in lines if not line.startswith("//")))
    mapped = {Path(schema).stem: glob for schema, glob in settings["yaml.schemas"].items()}
    assert (ROOT / next(iter(settings["yaml.schemas"]))).parent == FOLDER
    assert SCHEMAS().keys() <= mapped.keys()
    for file in FILES:
        assert file in set(ROOT.glob(mapped[name_of(file)]))
