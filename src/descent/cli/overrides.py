"""Overrides such as `optimizer.lr=0.1`: parsed by Hydra's grammar, and quoted where it needs quotes."""

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException

from descent.errors import ConfigError
from descent.paths import CONF

PARSER = OverridesParser.create()


def key_of(word: str) -> str:
    """Return the key that an override sets: `optimizer.lr` for `++optimizer.lr=0.1`."""
    return word.lstrip("+~").partition("=")[0]


def by_key(words: Sequence[str]) -> dict[str, str]:
    """Return the values of overrides, as typed, by key."""
    return {key_of(word): word.partition("=")[2] for word in words}


def parse(word: str) -> Any:
    """Return an override as Hydra parses it, or raise a `HydraException` if it is not in its grammar."""
    return PARSER.parse_override(word)


def quote(text: str) -> str:
    """Quote a text for Hydra, whatever characters it contains; nothing in it becomes a reference."""
    return quote_value(re.sub(r"(\\*)\$\{", r"\1\1\\${", text))


def quote_value(value: str) -> str:
    """Quote a value for Hydra; references in it, such as `${seed}`, remain references."""
    return QuotedString(value, Quote.single).with_quotes()


def quote_word(word: str, sweeps: bool) -> str:
    """Quote an override's value if Hydra cannot parse it, because a file or column may have any name.

    In a list and in a sweep each item is quoted by itself. Outside a sweep `data.path=x,1.csv` is one text.
    """
    key, equals, value = word.partition("=")
    ways = [word]
    if listed := re.fullmatch(r"\[([^\[\]{}'\"$]+)\]", value):
        ways.append(f"{key}=[{quote_items(listed[1])}]")
    elif sweeps:
        ways.append(f"{key}={quote_items(value)}")
    for way in [*ways, f"{key}={quote_value(value)}"] if equals else ways:
        with suppress(HydraException):
            override = parse(way)
            if override.key_or_group and (sweeps or not override.is_sweep_override()):
                return way
    raise ConfigError(word, expected="key=value")


def quote_items(text: str) -> str:
    """Quote those items that Hydra cannot parse."""
    return ",".join(quote_word(f"x={item.strip()}", sweeps=False)[2:] for item in text.split(","))


def quote_words(words: Sequence[str], flags: Mapping[str, str]) -> list[str]:
    """Return a command line's overrides as Hydra parses them, including that of `--config-dir`."""
    sweeps = "--multirun" in flags or any(word.startswith("experiment=") for word in words)
    words = [quote_word(word, sweeps) for word in words]
    if place := flags.get("--config-dir"):
        words.append(f"hydra.searchpath=[{quote(f'file://{Path(place).resolve()}')}]")
    return words


def list_places(words: Sequence[str]) -> list[Path]:
    """Return the folders of config files: conf/, and that of `--config-dir`."""
    added: Any = next((parse(word).value() for word in words if key_of(word) == "hydra.searchpath"), [])
    return [CONF, *(Path(place.removeprefix("file://")) for place in added)]
