"""From words to a config, by Hydra; what it cannot compose becomes a ConfigError."""

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.types import Override, ValueType
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from descent.cli.paths import CONF, list_choices, list_groups
from descent.cli.words import parse
from descent.errors import ConfigError, first_line, nearest
from descent.run.resume import key_of

FULL_ERROR = "HYDRA_FULL_ERROR"


def compose_and_call(job: Callable[[DictConfig], Any], name: str, words: Sequence[str]) -> None:
    """Have Hydra compose `conf/<name>.yaml` with the command line's words, and call the job on each config.

    Args:
        job: ends the process if something is wrong, because Hydra would print an exception in its own way.
        name: of the command.
        words: of the command line, without flags.

    Raises:
        ConfigError: the words give no config.
    """

    def call(config: DictConfig) -> Any:
        with set_environment(FULL_ERROR, usual):  # as before, for the processes that a run starts
            return job(config)

    usual = os.environ.get(FULL_ERROR, "")
    with set_environment(FULL_ERROR, "1"):  # so that Hydra raises what it would print on several lines
        try:
            hydra.main(version_base="1.3", config_path=str(CONF), config_name=name)(call)()
        except Exception as error:
            if (wrong := explain(error, words, name)) is None:
                raise
            raise wrong from error


def resolve_references(config: DictConfig, overrides: Mapping[str, str]) -> dict[str, Any]:
    """Return the config as plain values; a reference that leads nowhere raises a ConfigError."""
    try:
        plain = OmegaConf.to_container(config, resolve=True)
    except OmegaConfBaseException as error:
        raise blame_reference(error, overrides) from error
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def blame_reference(error: OmegaConfBaseException, overrides: Mapping[str, str]) -> ConfigError:
    """Return the error about a reference that leads nowhere; if a word has a reference, it is at fault."""
    expected = f"a value that exists ({first_line(error)})"
    for key, value in overrides.items():
        if "${" in value:
            return ConfigError(key, value, expected=expected)
    return ConfigError(error.full_key or "config", expected=expected)


def list_overrides() -> list[str]:
    """Return the words of this run, in a sweep those of this one run, with unresolved references."""
    words = OmegaConf.to_container(HydraConfig.get().overrides.task)
    assert isinstance(words, list)
    return words


@cache
def list_fields(name: str) -> dict[str, Any]:
    """Return what is at the root of a command's config: the fields of its file, and None for each group."""
    file = OmegaConf.to_container(OmegaConf.load(CONF / f"{name}.yaml"))
    assert isinstance(file, dict)
    defaults = [item for item in file.pop("defaults", []) if isinstance(item, dict)]
    groups = {str(group): None for item in defaults for group in item if group != "experiment"}
    return {**groups, **{str(key): value for key, value in file.items() if key != "hydra"}}


def explain(error: Exception, words: Sequence[str], name: str) -> ConfigError | None:
    """Return what is wrong with words that Hydra could not compose a config from, or None for a bug."""
    if isinstance(error, MissingConfigException) and "/" in str(error.missing_cfg_file):
        group, _, word = str(error.missing_cfg_file).rpartition("/")
        known = [option for option in error.options or list_choices(group) if "." not in option]
        return ConfigError(group, word, expected=f"one of {', '.join(known)}", choices=known)
    if (wrong := find_wrong_word(words, name)) is not None:
        return wrong
    own = [word for word in words if key_of(word).startswith("hydra")]
    if own:  # such as a folder that cannot be made or a value of another type
        return ConfigError(" ".join(own), expected=f"values that Hydra takes ({first_line(error)})")
    if isinstance(error, HydraException | OmegaConfBaseException):
        expected = f"words that Hydra can compose ({first_line(error)})"
        return ConfigError(" ".join(sys.argv[1:]) or name, expected=expected)
    return None


def find_wrong_word(words: Sequence[str], name: str) -> ConfigError | None:
    """Return what is wrong with the first word that names no key of the config or no file of its group."""
    overrides = [override for override in map(parse, words) if not override.is_hydra_override()]
    known_groups = list_groups() if "loss" in list_fields(name) else []  # only train has groups
    groups = [override for override in overrides if override.key_or_group in known_groups]
    for override in groups:
        group, value, known = override.key_or_group, override.value(), list_choices(override.key_or_group)
        if override.package is not None or override.is_add() or override.is_force_add():
            return ConfigError(str(override.input_line), expected=f"{group}=, and one of {', '.join(known)}")
        if override.value_type != ValueType.ELEMENT:
            continue
        chosen = value if isinstance(value, list) else [value]
        if not chosen or not all(word in known for word in chosen):
            return ConfigError(
                group, *text_of(override), expected=f"one of {', '.join(known)}", choices=known
            )
    keys = list_keys(name, groups)
    for override in overrides:
        key, adds = override.key_or_group, override.is_add() or override.is_force_add()
        if override not in groups and key not in keys and not adds:
            wrong = ConfigError(key, *text_of(override), expected="a key of the config")
            wrong.nearest = nearest_key(key, keys)
            return wrong
        if key in keys and override.is_add():
            expected = f"{key}=…, for the config has it; + adds what is not there"
            return ConfigError(str(override.input_line), expected=expected)
    return None


def text_of(override: Override) -> list[str]:
    """Return the value of a word as it was typed, in a list that is empty if it has none."""
    return [] if override.value_type is None else [override.get_value_string()]


def list_keys(name: str, groups: Sequence[Override]) -> list[str]:
    """Return the keys of the config with these choices, or with the defaults if those cannot be composed."""
    for words in ([str(override.input_line) for override in groups], []):
        GlobalHydra.instance().clear()
        try:
            with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
                return list(walk(OmegaConf.to_container(hydra.compose(name, words))))
        except HydraException:
            continue
    return []


def walk(node: Any, prefix: str = "") -> Iterator[str]:
    """Yield the key of every field in nested dicts."""
    for name, value in node.items() if isinstance(node, Mapping) else ():
        yield f"{prefix}{name}"
        yield from walk(value, f"{prefix}{name}.")


def nearest_key(wrong: str, known: Sequence[str]) -> str:
    """Return the key most like a wrong one: `optimizer` for `optimiser`, `optimizer.lr` for `lr`."""
    offered = [key for key in known if "_target_" not in key]
    group, dot, field = wrong.rpartition(".")
    below = [key for key in offered if key.startswith(f"{group}{dot}") and key.endswith(f".{field}")]
    return below[0] if below else nearest(wrong, offered)


@contextmanager
def set_environment(name: str, value: str) -> Iterator[None]:
    """Set a variable of the environment for the time of a `with` block."""
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        os.environ.pop(name)
        if before is not None:
            os.environ[name] = before
