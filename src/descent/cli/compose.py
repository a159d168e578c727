"""Turns overrides into a config, by Hydra's compose API; an error becomes one line."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import hydra
import yaml
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from descent.cli.overrides import by_key, key_of, parse
from descent.errors import ConfigError, first_line
from descent.paths import CONF, DATASETS, LOGS, list_groups

SEVERAL = ("metrics", "callbacks", "logger")  # groups that accept several words
EMPTY = (*SEVERAL, "scheduler", "search")  # groups that may be empty
NAME = 60  # characters of a run's name, at most


@dataclass
class Composed:
    """A config composed from its overrides."""

    config: dict[str, Any]  # resolved, plain values
    choices: dict[str, str]  # the word of each group
    recipe: dict[str, str]  # the sweep settings of an experiment's file; empty for a single run


def compose(name: str, words: Sequence[str]) -> Composed:
    """Return the config that `conf/<name>.yaml` and overrides define, quoted by `quote_word`."""
    OmegaConf.register_new_resolver("datasets", lambda: str(DATASETS), replace=True)
    node = compose_node(name, words)
    own = node.pop("hydra")
    chosen = own.runtime.choices.items()  # without groups for which several words are typed
    choices = {str(group): str(word) for group, word in chosen if "hydra" not in str(group)}
    start_afresh(node, words)
    try:
        if name == "train":
            node.name = node.name or name_run(choices, words)
            folder = node.folder or LOGS / f"{node.name}-{datetime.now():%Y%m%d-%H%M%S}"
            node.folder = str(Path(str(folder)).expanduser().resolve())
        config: Any = OmegaConf.to_container(node, resolve=True)
    except OmegaConfBaseException as error:
        key = next((key for key, value in by_key(words).items() if "${" in value), error.full_key)
        raise ConfigError(key or "config", expected=f"a value that exists ({first_line(error)})") from error
    if name == "train":
        config |= {group: {} for group in EMPTY if group not in config and group in list_groups()}
    return Composed(config, choices, {str(k): str(v) for k, v in (own.sweeper.get("params") or {}).items()})


def compose_node(name: str, words: Sequence[str]) -> DictConfig:
    """Return the config with its references, and Hydra's own config as its node `hydra`."""
    for word in words:
        group, value = key_of(word), parse(word).value()
        chosen = value if group in SEVERAL and isinstance(value, list) else [value]
        if group in list_groups() and word[0] != "~" and not all(isinstance(one, str) for one in chosen):
            from descent.cli.wrong import refuse_choice

            raise refuse_choice(group, word.partition("=")[2])
    # add a `_target_` if a group has none, such as the default of loss
    complete = [f"++{w}" if key_of(w).endswith("._target_") and w[0] not in "+~" else w for w in words]
    try:
        with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
            node = hydra.compose(name, complete, return_hydra_config=True)
    except (HydraException, OmegaConfBaseException, ValueError, yaml.YAMLError) as error:
        from descent.cli.wrong import explain

        raise explain(error, name, words) from error
    OmegaConf.set_struct(node, False)
    return node


def start_afresh(config: DictConfig, words: Sequence[str]) -> None:
    """If a `_target_` is typed, drop its node's fields that are not typed: another target took them."""
    typed = [f"{key_of(word)}." for word in words]
    for path in (key.removesuffix("._target_.") for key in typed if key.endswith("._target_.")):
        node: Any = OmegaConf.select(config, path)
        for field in [field for field in node if not field.startswith("_")]:
            if not any(key.startswith(f"{path}.{field}.") for key in typed):
                del node[field]


def name_run(choices: Mapping[str, str], words: Sequence[str]) -> str:
    """Return `mae-sgd-mlp-digits`, followed by the typed values, such as `lr=0.1`."""
    chosen, values = dict(choices), []
    for key, value in by_key(words).items():
        group, _, name = key.rpartition(".")
        if name == "_target_" and group in chosen:
            chosen[group] = value.rpartition(".")[2]
        elif key not in (*chosen, "name", "folder", "resume", "hydra.searchpath"):
            values.append(f"{name}={value}".replace("'", ""))
    groups = ("experiment", "loss", "optimizer", "model", "data")
    parts = [chosen[group] for group in groups if chosen.get(group) not in (None, "None", "default")]
    return re.sub(r"[^\w.=+-]+", "_", "-".join([*parts, *values]))[:NAME].rstrip("-_.")
