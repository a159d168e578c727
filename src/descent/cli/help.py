"""Explains a command without running it: its help, its config, and why overrides do not compose."""

import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import hydra
import yaml

from descent import __version__
from descent.cli.compose import compose
from descent.cli.overrides import key_of, parse, quote_words
from descent.errors import ConfigError, first_line
from descent.paths import CONF, list_choices, list_groups, read_conf


def inform(name: str, flags: Mapping[str, str], words: Sequence[str], arguments: Sequence[str]) -> None:
    """Print what flags such as `--version` request; those of Hydra, such as `--info`, are passed to it."""
    if "--help" in flags:
        print_help(name)
    elif "--version" in flags:
        print(__version__)
    elif flags.get("--cfg") == "job":
        words = [word for word in words if not word.startswith("resume=")]
        config = compose(name, quote_words(words, flags)).config
        print(yaml.safe_dump(config, sort_keys=False, allow_unicode=True), end="")
    else:
        sys.argv[1:] = arguments
        hydra.main(version_base="1.3", config_path=str(CONF), config_name=name)(lambda config: None)()


def print_help(name: str) -> None:
    """Print a command's help, from conf/ alone."""
    text = read_conf(CONF / f"{name}.yaml")
    fill = partial(textwrap.fill, width=80, break_on_hyphens=False)
    print(fill(text.splitlines()[0].lstrip("# ")) + "\n")
    if name == "train":
        print("One word per choice, such as loss=mae; the default is in brackets.")
        for item in yaml.safe_load(text)["defaults"]:
            for key, default in item.items() if isinstance(item, dict) else ():
                group = key.removeprefix("optional ")  # marks a room that can be removed
                if group in list_groups():
                    print(f"\n{group}  [{default}]" if default else f"\n{group}")
                    print("\n".join(describe_word(group, word) for word in list_choices(group)))
        print("\nAny field of the config works the same way, such as optimizer.lr=0.1.")
        print("  --cfg job       print the whole config of a run, without running it")
        print("  -m, --multirun  a run for each combination, such as -m loss=mae,mse seed=0,1,2\n")
    fields = text.rpartition("\n\n")[2].splitlines()
    print("\n".join(fill(line, subsequent_indent=" " * 25 + "# ") for line in fields))


def describe_word(group: str, word: str) -> str:
    """Return a word and the first line of its file, at most 80 characters wide."""
    lines = read_conf(CONF / group / f"{word}.yaml").splitlines()
    first = next((line.lstrip("# ") for line in lines if line.startswith("#") and "@package" not in line), "")
    return textwrap.fill(first, 80, initial_indent=f"  {word:<22}", subsequent_indent=" " * 24)


def explain(error: Exception, name: str, words: Sequence[str]) -> ConfigError:
    """Return the error for overrides that Hydra could not compose, or for a broken file of conf/."""
    if isinstance(error, UnicodeDecodeError):  # which does not name the file
        for place in list_places(words):
            for file in place.rglob("*.yaml"):
                read_conf(file)
    if isinstance(error, yaml.YAMLError):
        mark: Any = getattr(error, "problem_mark", None)
        where = f"{mark.name}, line {mark.line + 1}" if mark else getattr(error, "name", name)
        return ConfigError(where, expected=f"YAML ({getattr(error, 'problem', first_line(error))})")
    named = [word for word in words if key_of(word) in str(error)]
    word = max(named, key=lambda word: len(key_of(word)), default=" ".join(words) or name)
    groups, key = (
        [word for word in words if key_of(word) in (*list_groups(), "hydra.searchpath")],
        key_of(word),
    )
    if "Could not" not in str(error) or word not in named or word in groups or word[0] == "+":
        return ConfigError(word, expected=f"an override that Hydra can compose ({first_line(error)})")
    keys = [*list_keys(compose(name, groups).config)]
    group, _, last = key.rpartition(".")
    same = (
        other for other in keys if other.startswith(group) and other.endswith(f".{last}")
    )  # optimizer.lr for lr
    return ConfigError(word, expected="a key of the config", choices=keys, meant=next(same, key))


def list_keys(node: Any, prefix: str = "") -> Iterator[str]:
    """Yield the key of every field in nested dicts."""
    for name, value in node.items() if isinstance(node, Mapping) else ():
        if not str(name).startswith("_"):
            yield f"{prefix}{name}"
            yield from list_keys(value, f"{prefix}{name}.")


def list_places(words: Sequence[str]) -> list[Path]:
    """Return the folders of config files: conf/, and those that `quote_words` added."""
    added: Any = next((parse(word).value() for word in words if key_of(word) == "hydra.searchpath"), [])
    return [CONF, *(Path(place.removeprefix("file://")) for place in added)]
