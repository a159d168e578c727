"""Explains what is wrong with overrides: the words of errors, and the choices nearest to what was typed."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import yaml
from hydra.errors import MissingConfigException

from descent.build import is_tensor
from descent.cli.check import LISTS, UNIONS, accepts, without_tensors
from descent.cli.compose import compose
from descent.cli.overrides import key_of, list_places
from descent.errors import ConfigError, first_line
from descent.paths import list_choices, list_groups, read_conf

NAMES = {bool: "true or false", int: "a whole number", float: "a number", str: "text", Path: "text"}
NAMES |= {type(None): "null"}


def explain(error: Exception, name: str, words: Sequence[str]) -> ConfigError:
    """Return the error for overrides that Hydra could not compose, or for a broken file of conf/."""
    if isinstance(error, MissingConfigException):
        group, _, value = str(error.missing_cfg_file).rpartition("/")
        return refuse_choice(group, value, error.options)
    if isinstance(error, UnicodeDecodeError):  # which does not name the file
        for file in (file for place in list_places(words) for file in place.rglob("*.yaml")):
            read_conf(file)
    if isinstance(error, yaml.YAMLError):
        mark: Any = getattr(error, "problem_mark", None)
        where = f"{mark.name}, line {mark.line + 1}" if mark else getattr(error, "name", name)
        return ConfigError(where, expected=f"YAML ({getattr(error, 'problem', first_line(error))})")
    named = [word for word in words if key_of(word) in str(error)]
    word = max(named, key=lambda word: len(key_of(word)), default=" ".join(words) or name)
    groups, key = list_groups(), key_of(word)
    if not named or "Could not" not in str(error) or key in groups or word[0] == "+":
        return ConfigError(word, expected=f"an override that Hydra can compose ({first_line(error)})")
    chosen = [word for word in words if key_of(word) in (*groups, "hydra.searchpath")]
    keys = [*list_keys(compose(name, chosen).config)]
    group, _, last = key.rpartition(".")
    same = (k for k in keys if k.startswith(group) and k.endswith(f".{last}"))  # optimizer.lr for lr
    return ConfigError(word, expected="a key of the config", choices=keys, meant=next(same, key))


def list_keys(node: Any, prefix: str = "") -> Iterator[str]:
    """Yield the key of every field in nested dicts."""
    for name, value in node.items() if isinstance(node, Mapping) else ():
        if not str(name).startswith("_"):
            yield f"{prefix}{name}"
            yield from list_keys(value, f"{prefix}{name}.")


def refuse_choice(group: str, value: str, options: Sequence[str] | None = None) -> ConfigError:
    """Return the error for a choice that a group does not have."""
    known = sorted(set(options or list_choices(group)))
    more = ", or -m to run each" if "," in value and value[0] != "[" else ""
    return ConfigError(group, value, expected=f"one of {', '.join(known)}{more}", choices=known)


def refuse_value(key: str, value: Any, hint: Any, text: str) -> ConfigError:
    """Return the error for a plain value, typed as `text`, that a type does not accept."""
    expected = expectation(hint)
    if "${oc.env" in text:
        expected += f": '{key}=${{oc.decode:{text}}}'"
    elif text and not text.startswith("'") and accepts("text", hint):
        expected += f""": "{key}='{text}'\""""
    elif isinstance(value, str) and "," in value and not accepts([], hint):
        expected += ", or -m to run each"
    return ConfigError(key, value, expected=expected, choices=literals(hint))


def expectation(hint: Any) -> str:
    """Return a hint in words: `a number, or null`."""
    origin, arguments = get_origin(hint), get_args(hint)
    if hint in NAMES:
        return NAMES[hint]
    if origin is Literal:
        return "one of " + ", ".join(map(str, arguments))
    if origin in UNIONS:
        return ", or ".join(dict.fromkeys(map(expectation, without_tensors(arguments))))
    if is_tensor(hint):
        return "a list of numbers, or balanced"
    if origin in LISTS:
        return f"a list, each of its values {expectation(arguments[0])}"
    return f"an object of {getattr(hint, '__name__', hint)}"


def literals(hint: Any) -> list[str]:
    """Return all words that a hint allows."""
    words = [str(choice) for choice in get_args(hint) if get_origin(hint) is Literal]
    return words or [word for argument in get_args(hint) for word in literals(argument)]
