"""The JSON schemas for editors: every file of conf/ is valid, a wrong key or a wrong type is not."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from omegaconf import OmegaConf

from descent.cli.schema import FOLDER, describe_conf
from descent.paths import CONF

jsonschema = pytest.importorskip("jsonschema")
FILES = sorted(CONF.glob("**/*.yaml"))
SCHEMAS = cache(describe_conf)


@cache
def validator(name: str) -> Any:
    schema = SCHEMAS()[name]
    jsonschema.Draft7Validator.check_schema(schema)
    return jsonschema.Draft7Validator(schema)


def name_of(file: Path) -> str:
    return file.stem if file.parent == CONF else file.parent.name


def is_valid(name: str, content: Any) -> bool:
    return validator(name).is_valid(content)


def test_every_file_is_valid() -> None:
    for file in FILES:
        content = OmegaConf.to_container(OmegaConf.load(file))
        errors = [error.message for error in validator(name_of(file)).iter_errors(content)]
        assert errors == [], file


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


@pytest.mark.parametrize(("name", "content"), WRONG, ids=str)
def test_a_wrong_key_and_a_wrong_type_are_not(name: str, content: dict[str, Any]) -> None:
    assert not is_valid(name, content)


def test_a_file_of_ones_own_is_valid_with_a_target_that_the_schema_does_not_know() -> None:
    assert is_valid("loss", {"_target_": "my_losses.FocalLoss", "gamma": 2.0})
    assert is_valid("optimizer", {"defaults": ["sgd"], "momentum": 0.9, "lr": "${seed}"})
    assert is_valid("experiment", {"defaults": [{"override /loss": "mae"}], "trainer": {"max_epochs": 3}})


def test_the_editor_knows_where_each_schema_belongs() -> None:
    lines = (ROOT / ".vscode/settings.json").read_text(encoding="utf-8").splitlines()
    settings = json.loads("\n".join(line for line in lines if not line.startswith("//")))
    mapped = {Path(schema).stem: glob for schema, glob in settings["yaml.schemas"].items()}
    assert (ROOT / next(iter(settings["yaml.schemas"]))).parent == FOLDER
    assert SCHEMAS().keys() <= mapped.keys()
    for file in FILES:
        assert file in set(ROOT.glob(mapped[name_of(file)]))
