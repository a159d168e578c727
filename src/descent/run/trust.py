"""Treats a folder from elsewhere as data: limits the names in its config and the contents of its files.

A folder may use only names from conf/, names that the user types, and what `allow=` lists. Weights load with
`weights_only=True`. Everything written, renamed or removed for a run goes through
`descent.run.atomic.require_inside`. Nothing more is promised: a folder from elsewhere may exhaust memory.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from descent.errors import ConfigError, first_line
from descent.paths import CONF, read_conf

TARGET = re.compile(r"_target_[:=]\s*[\"']?([\w.]+)")
OWN = ("descent.task.Classes", "descent.task.Values", "descent.task.Labels", "descent.task.Tokens")
PLACES = re.compile(r"(?<!sub_)dir|path|uri|location|_args_")  # in keys whose values are paths


def list_allowed(
    words: Iterable[str] = (), more: Iterable[str] = (), places: Iterable[Path] = (CONF,)
) -> set[str]:
    """Return the names that a config from elsewhere may use.

    Args:
        words: typed overrides, whose targets the user vouches for.
        more: what `allow=` lists: names, or modules whose own classes and functions are trusted.
        places: folders of config files, of which the user may name some by `--config-dir`.
    """
    files = (path for place in places for path in place.rglob("*.yaml"))
    texts = (*map(read_conf, files), *words)
    return {*OWN, *more, *(name for text in texts for name in TARGET.findall(text))}


def require_own_paths(config: Mapping[str, Any], folder: Path, typed: Iterable[str] = ()) -> None:
    """Raise a `ConfigError` for a value that would make callbacks, loggers or the trainer write elsewhere.

    The user vouches for the values of the keys that are `typed`.
    """
    for key, value in list_texts(config):
        path = Path(value)
        leads = path.is_absolute() or PLACES.search(key) or value.startswith("~")
        inside = path.resolve().is_relative_to(folder) if leads else True
        vouched = any(f"{key}.".startswith(f"{word}.") for word in typed)
        if not vouched and (not inside or ".." in path.parts or "://" in value or "$" in value):
            raise ConfigError(key, value, expected="a path in the run's folder, or this override typed again")


def list_texts(node: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Yield every text in nested dicts and lists, with its key."""
    if isinstance(node, str):
        yield key, node
    elif isinstance(node, Mapping):
        for name, value in node.items():
            yield from list_texts(value, f"{key}.{name}" if key else str(name))
    elif isinstance(node, list):
        for value in node:
            yield from list_texts(value, key)


def require_no_links(folder: Path, ignored: Path | None = None) -> None:
    """Raise a `ConfigError` if a folder contains a link, a pipe or a device, before it is touched.

    What is below `ignored` does not count, nor does what an active run has just removed.
    """
    for path in folder.rglob("*"):
        regular = path.is_file() or path.is_dir() or not path.exists()
        if (path.is_symlink() or not regular) and ignored not in path.parents:
            expected = f"a folder of regular files; {path.relative_to(folder)} is a link or something else"
            raise ConfigError("resume", str(folder), expected=expected)


def read_text(path: Path) -> str:
    """Return the text of a file that a run wrote; raise a `ConfigError` for a pipe, which would block."""
    if not path.is_file():
        raise ConfigError(str(path), expected="a regular file that a run wrote")
    return path.read_text(encoding="utf-8")


class PlainLoader(yaml.SafeLoader):
    """Loads YAML without aliases, because no run writes them, and one may contain itself."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("it has an alias")
        return super().compose_node(parent, index)


def read_yaml(path: Path) -> Any:
    """Return the plain values of a YAML file that a run wrote; raise a `ConfigError` for any other file."""
    text = read_text(path)
    try:
        return yaml.load(text, PlainLoader)
    except Exception as error:  # a crafted file can make yaml raise anything
        raise ConfigError(str(path), expected=f"a file that a run wrote ({first_line(error)})") from error
