"""Turns overrides into a config, by Hydra's compose API; an error becomes one line."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import hydra
import yaml
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from descent.cli.overrides import by_key, key_of, parse, quote
from descent.errors import ConfigError, first_line, nearest
from descent.paths import CONF, DATASETS, LOGS, list_choices, list_groups

SEVERAL = ("metrics", "callbacks", "logger")  # groups that accept several words
EMPTY = (*SEVERAL, "scheduler", "search")  # groups that may be empty
NAME = 60  # characters of a run's name, at most


@dataclass
class Composed:
    """A config composed from its overrides.

    Attributes:
        config: resolved, plain values.
        choices: the word of each group.
        words: the overrides.
        recipe: the sweep settings of an experiment's file, by key; empty for a single run.
    """

    config: dict[str, Any]
    choices: dict[str, str]
    words: list[str]
    recipe: dict[str, str] = field(default_factory=dict)


def compose(name: str, words: Sequence[str], places: Sequence[Path] = ()) -> Composed:
    """Return the config that `conf/<name>.yaml` and overrides define.

    Args:
        name: the command's name.
        words: overrides, as `quote_words` returns them.
        places: folders of config files in addition to conf/.

    Raises:
        ConfigError: an override that names no key of the config or no word of its group, or a reference to
            a missing key.
    """
    words = list(words)
    OmegaConf.register_new_resolver("datasets", lambda: str(DATASETS), replace=True)
    node, own = compose_node(name, words, places)
    choices = {str(group): word for group, word in own.runtime.choices.items() if "hydra" not in str(group)}
    choices = {
        group: "+".join(word) if isinstance(word, list) else str(word) for group, word in choices.items()
    }
    start_afresh(node, words)
    try:
        if name == "train":
            node.name = node.name or name_run(choices, words)
            folder = node.folder or LOGS / f"{node.name}-{datetime.now():%Y%m%d-%H%M%S}"
            node.folder = str(Path(str(folder)).expanduser().resolve())
        config: Any = OmegaConf.to_container(node, resolve=True)
    except OmegaConfBaseException as error:
        expected = f"a value that exists ({first_line(error)})"
        if "oc.decode" not in str(error) and "${oc.env" in str(words):
            expected += "; a number from the environment is ${oc.decode:${oc.env:NAME}}"
        key, value = next(((k, v) for k, v in by_key(words).items() if "${" in v), (error.full_key, None))
        raise ConfigError(key or "config", *([value] if value else []), expected=expected) from error
    if name == "train":
        config |= {group: {} for group in EMPTY if group not in config and group in list_groups()}
    recipe = {str(key): str(value) for key, value in (own.sweeper.get("params") or {}).items()}
    return Composed({str(key): value for key, value in config.items()}, choices, words, recipe)


def compose_node(
    name: str, words: Sequence[str], places: Sequence[Path] = ()
) -> tuple[DictConfig, DictConfig]:
    """Return the config with its references, and Hydra's own config."""
    for word in words:
        override = parse(word)
        group, value = override.key_or_group, override.value()
        one = isinstance(value, str) or word.startswith("~") or (group == "experiment" and value is None)
        if group in list_groups() and not one and not (isinstance(value, list) and group in SEVERAL):
            known, typed = list_choices(group), word.partition("=")[2]  # Hydra would mix several files
            raise ConfigError(group, typed, expected=f"one of {', '.join(known)}", choices=known)
    # add a `_target_` if a group has none, such as the default of loss
    words = [f"++{w}" if key_of(w).endswith("._target_") and w[0] not in "+~" else w for w in words]
    found = [quote(f"file://{place.expanduser().resolve()}") for place in places]
    more = [f"hydra.searchpath=[{','.join(found)}]"] if found else []
    try:
        with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
            config = hydra.compose(name, [*words, *more], return_hydra_config=True)
    except MissingConfigException as error:
        group, _, word = str(error.missing_cfg_file).rpartition("/")
        known = sorted(set(error.options or list_choices(group)))
        raise ConfigError(
            group or "config", word, expected=f"one of {', '.join(known)}", choices=known
        ) from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"{mark.name}, line {mark.line + 1}" if mark else name
        raise ConfigError(where, expected=f"YAML ({error.problem})") from error
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise explain(error, words, name, places) from error
    own = config.hydra
    with open_dict(config):
        del config["hydra"]
    return config, own


def explain(error: Exception, words: Sequence[str], name: str, places: Sequence[Path]) -> ConfigError:
    """Return the error for overrides that Hydra could not compose."""
    groups = [word for word in words if key_of(word) in list_groups() and not word.startswith(("+", "~"))]
    keys: list[str] = []
    for known in (groups, []) if list(words) != groups else ([],):
        try:
            keys = list(list_keys(OmegaConf.to_container(compose_node(name, known, places)[0])))
        except ConfigError:
            continue
        break
    for word in words:
        key, value = key_of(word), word.partition("=")[2]
        if key in list_groups() and word.startswith("+"):
            return ConfigError(word, expected=f"{key}=, and one of {', '.join(list_choices(key))}")
        if key in keys and word.startswith("+") and not word.startswith("++"):
            return ConfigError(word, expected=f"{key}=…, because the config has it; + adds what it lacks")
        if key not in keys and key not in list_groups() and not word.startswith("+") and "hydra" not in key:
            wrong = ConfigError(key, *([value] if "=" in word else []), expected="a key of the config")
            wrong.nearest = find_nearest_key(key, keys)
            return wrong
    expected = f"overrides that Hydra can compose ({first_line(error)})"
    return ConfigError(" ".join(words) or name, expected=expected)


def list_keys(node: Any, prefix: str = "") -> Iterator[str]:
    """Yield the key of every field in nested dicts."""
    for name, value in node.items() if isinstance(node, Mapping) else ():
        yield f"{prefix}{name}"
        yield from list_keys(value, f"{prefix}{name}.")


def find_nearest_key(wrong: str, known: Sequence[str]) -> str:
    """Return the key nearest to a wrong one: `optimizer` for `optimiser`, `optimizer.lr` for `lr`."""
    offered = [key for key in known if "._" not in key]
    group, dot, name = wrong.rpartition(".")
    below = [key for key in offered if key.startswith(f"{group}{dot}") and key.endswith(f".{name}")]
    return below[0] if below else nearest(wrong, offered)


def start_afresh(config: DictConfig, words: Sequence[str]) -> None:
    """If a `_target_` is typed, keep only those of the node's fields that are typed too."""
    typed = [key_of(word) for word in words]
    for key in typed:
        path, _, name = key.rpartition(".")
        if name != "_target_" or (node := OmegaConf.select(config, path)) is None:
            continue
        kept = [
            f
            for f in node
            if str(f).startswith("_") or any(f"{t}.".startswith(f"{path}.{f}.") for t in typed)
        ]
        with open_dict(config):
            for other in [f for f in node if f not in kept]:
                del node[other]


def name_run(choices: Mapping[str, str], words: Sequence[str]) -> str:
    """Return `mae-sgd-mlp-digits`, followed by the typed values, such as `lr=0.1`."""
    chosen, values = dict(choices), []
    for word in words:
        key, value = key_of(word), word.partition("=")[2].strip("'")
        group, _, name = key.rpartition(".")
        if name == "_target_" and group in chosen:
            chosen[group] = value.rpartition(".")[2]
        elif key not in chosen and key not in ("name", "folder", "resume"):
            values.append(f"{name}={value}")
    groups = ("experiment", "loss", "optimizer", "model", "data")
    parts = [chosen[group] for group in groups if chosen.get(group) not in (None, "None", "default")]
    return re.sub(r"[^\w.=+-]+", "_", "-".join([*parts, *values]))[:NAME].rstrip("-_.")
