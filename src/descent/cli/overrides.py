"""Overrides such as `optimizer.lr=0.1`: parsed by Hydra's grammar, and quoted where it needs quotes."""

import re
from collections.abc import Sequence
from functools import cache
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException

from descent.errors import ConfigError, first_line
from descent.paths import list_groups


def key_of(word: str) -> str:
    """Return the key that an override sets: `optimizer.lr` for `++optimizer.lr=0.1`."""
    return word.lstrip("+~").partition("=")[0]


def by_key(words: Sequence[str]) -> dict[str, str]:
    """Return the values of overrides, as typed, by key."""
    return {key_of(word): word.partition("=")[2] for word in words}


def parse(word: str) -> Any:
    """Return an override as Hydra parses it.

    Raises:
        HydraException: it is not in its grammar.
    """
    try:
        return create_parser().parse_override(word)
    except (ValueError, RecursionError) as error:  # a number with thousands of digits, or deeply nested lists
        raise HydraException(first_line(error)) from error


def parses(word: str) -> bool:
    """Whether an override is in Hydra's grammar."""
    try:
        parse(word)
    except HydraException:
        return False
    return True


def quote(text: str) -> str:
    """Quote a text for Hydra, whatever characters it contains; nothing in it becomes a reference."""
    literal = re.sub(r"(\\*)\$\{", r"\1\1\\${", text)
    return QuotedString(literal, Quote.single).with_quotes()


def quote_words(words: Sequence[str], sweeps: bool) -> list[str]:
    """Quote overrides for Hydra: `data.path='x,1.csv'` for `data.path=x,1.csv` outside a sweep.

    If Hydra cannot parse a value, it is tried again as a quoted text, or a list with each of its items
    quoted, because names of files and columns may contain any character.

    Raises:
        ConfigError: a word is not an override.
    """
    return [quote_word(word, sweeps) for word in words]


def quote_word(word: str, sweeps: bool) -> str:
    """See `quote_words`."""
    key, equals, value = word.partition("=")
    quoted = f"{key}={QuotedString(value, Quote.single).with_quotes()}"
    if not parses(word):
        inside = re.fullmatch(r"\[([^\[\]{}'\"$]+)\]", value)
        items = [item.strip() for item in inside[1].split(",")] if inside else []
        listed = f"{key}=[{','.join(i if parses(f'{key}={i}') else quote(i) for i in items)}]"
        found = next((text for text in ([listed] if items else []) + [quoted] if parses(text)), None)
        if not equals or not key or found is None or ("${" in value and value.count("{") != value.count("}")):
            raise ConfigError(word, expected="key=value")
        if sweeps and "," in value and not items:
            raise ConfigError(key, value, expected=f'each value in quotes, or all of it: "{quoted}"')
        return found
    override = parse(word)
    if not override.key_or_group:
        raise ConfigError(word, expected="key=value")
    if not override.is_sweep_override() or sweeps:
        return word
    if override.key_or_group in list_groups():
        raise ConfigError(key, value, expected="one word, or -m for a run of each")
    return quoted


@cache
def create_parser() -> OverridesParser:
    return OverridesParser.create()
