"""The words of a command line: flags apart from overrides, and values in quotes where Hydra needs them."""

import argparse
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NoReturn

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from descent.cli.paths import list_groups
from descent.errors import ConfigError, first_line, nearest
from descent.run.resume import key_of

INFO = ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")
FLAGS: dict[tuple[str, ...], dict[str, Any]] = {  # Hydra's, as its documentation lists them
    ("--help", "-h"): {"action": "store_true"},
    ("--hydra-help",): {"action": "store_true"},
    ("--version",): {"action": "store_true"},
    ("--cfg", "-c"): {"choices": ("job", "hydra", "all")},
    ("--resolve",): {"action": "store_true"},
    ("--package", "-p"): {},
    ("--run", "-r"): {"action": "store_true"},
    ("--multirun", "-m"): {"action": "store_true"},
    ("--shell-completion", "-sc"): {"action": "store_true"},
    ("--config-path", "-cp"): {},
    ("--config-name", "-cn"): {},
    ("--config-dir", "-cd"): {},
    ("--experimental-rerun",): {},
    ("--info", "-i"): {"nargs": "?", "const": "all", "choices": INFO},
}
COMPLETION = ("install", "uninstall", "query")  # of a shell: what `--shell-completion` does
ALONE = ("--cfg", "--run", "--multirun", "--shell-completion", "--info")  # Hydra does one of these


class Parser(argparse.ArgumentParser):
    """Raises what argparse would print with its usage."""

    def error(self, message: str) -> NoReturn:
        raise argparse.ArgumentError(None, message)


@dataclass
class CommandLine:
    """What a person typed.

    Attributes:
        flags: Hydra's, each with its value: None or False where it is not given.
        words: the overrides, in their order.
    """

    flags: dict[str, Any]
    words: list[str]

    def arguments(self, words: Sequence[str]) -> list[str]:
        """Return the flags, and behind them other words, as Hydra takes them."""
        given = {flag: value for flag, value in self.flags.items() if value not in (None, False)}
        flags = [part for flag, value in given.items() for part in (flag, value) if part is not True]
        return [*flags, *words]


def split(arguments: Sequence[str]) -> CommandLine:
    """Tell flags from words; they may stand in any order.

    Raises:
        ConfigError: a flag is unknown, lacks its value, or does not go together with another one.
    """
    parser = Parser(add_help=False, exit_on_error=False)
    for names, settings in FLAGS.items():
        parser.add_argument(*names, dest=names[0], **settings)
    parser.add_argument("words", nargs="*")
    known = [name for flag in FLAGS for name in flag]
    joined = [a for a in arguments if re.match("-[^-].*=", a) and a.partition("=")[0] not in known]
    try:  # argparse would take -callbacks.x=null for -c and its value
        found, unknown = parser.parse_known_intermixed_args([a for a in arguments if a not in joined])
    except argparse.ArgumentError as error:
        raise ConfigError(error.argument_name or arguments[0], expected=expect_of(error)) from error
    for word in (*joined, *unknown):
        wrong = ConfigError(word, expected=f"key=value, or one of {', '.join(known)}")
        wrong.nearest = nearest(word.partition("=")[0], known)
        raise wrong
    flags = dict(vars(found))
    words = flags.pop("words")
    several = [flag for flag in ALONE if flags[flag] not in (None, False)]
    if len(several) > 1:
        raise ConfigError(" ".join(several), expected=f"one of {', '.join(ALONE)} at a time")
    if flags["--resolve"] and not flags["--cfg"]:
        raise ConfigError("--resolve", expected="--cfg beside it")
    if flags["--experimental-rerun"]:
        raise ConfigError("--experimental-rerun", expected="resume=logs/…, for no run writes what this reads")
    if flags["--shell-completion"] and not any(word.partition("=")[0] in COMPLETION for word in words):
        raise ConfigError("--shell-completion", expected="install=bash, or uninstall= or query=, beside it")
    return CommandLine(flags, words)


def expect_of(error: argparse.ArgumentError) -> str:
    """Say what a flag takes, where it got something else."""
    for names, settings in FLAGS.items():
        if error.argument_name == "/".join(names):
            return f"one of {', '.join(settings['choices'])}" if "choices" in settings else "a value"
    return f"flags that Hydra knows ({error.message})"


def gather_values(arguments: Sequence[str], fields: Sequence[str]) -> list[str]:
    """Return the arguments, with all that are neither flags nor set a field as the list of the first field.

    Args:
        arguments: as typed.
        fields: of the command.
    """
    keys = [f"{field}=" for field in fields]
    known = [word for word in arguments if word.startswith(("-", "hydra", *keys))]
    values = [quote_literally(word) for word in arguments if word not in known]
    return [*known, *([f"{fields[0]}=[{','.join(values)}]"] if values else [])]


def by_key(words: Sequence[str]) -> dict[str, str]:
    """Return the values that words set, by key."""
    return {key_of(word): word.partition("=")[2] for word in words if "=" in word}


def quote(text: str) -> str:
    """Return a text as Hydra takes it, whatever characters are in it."""
    return QuotedString(text, Quote.single).with_quotes()


def quote_literally(text: str) -> str:
    """Return a text in which Hydra replaces nothing, not even `${…}`."""
    return quote(escape(text))


def escape(text: str) -> str:
    """Return a text in which OmegaConf sees no references, whatever backslashes are before them."""
    return re.sub(r"(\\*)\$\{", r"\1\1\\${", text)


def quote_values(line: CommandLine) -> list[str]:
    """Return the words, with quotes around values that Hydra would take for something else, or not at all.

    Raises:
        ConfigError: a word is no override.
    """
    # a file of the group `experiment` may be a sweep
    sweeps = line.flags["--multirun"] or {"experiment", "hydra.mode"} & {key_of(w) for w in line.words}
    return [quote_value(word, bool(sweeps)) for word in line.words]


def quote_value(word: str, sweeps: bool) -> str:
    """Return a word as Hydra takes it: `data.path='x,1.csv'` for `data.path=x,1.csv` if there is no sweep."""
    key, equals, value = word.partition("=")
    quoted = f"{key}={quote(value)}"
    try:
        override = parse(word)
    except HydraException as error:
        if listed := quote_list(key, value):
            return listed
        if not equals or not key or not parses(quoted):
            raise ConfigError(word, expected=f"key=value ({first_line(error)})") from error
        if "${" in value and not is_reference(value):
            raise ConfigError(
                key, value, expected="a reference with both its braces, such as ${seed}"
            ) from error
        if sweeps and "," in value:
            raise ConfigError(
                key, value, expected=f"each value in quotes, or all: {as_shell(quoted)}"
            ) from error
        return quoted
    if not override.key_or_group:
        raise ConfigError(word, expected="key=value")
    if not override.is_sweep_override() or sweeps:
        return word
    if override.key_or_group in list_groups():
        raise ConfigError(key, value, expected="one word, or -m for a run of each")
    return quoted


def quote_list(key: str, value: str) -> str:
    """Return a word such as `keep=[나이,id]` with the quotes that Hydra needs; "" if it has no list."""
    inside = re.fullmatch(r"\[([^\[\]{}'\"$]+)\]", value)
    parts = inside[1].split(",") if inside else []
    word = f"{key}=[{','.join(p if parses(f'{key}={p}') else quote(p.strip()) for p in parts)}]"
    return word if parts and parses(word) else ""


def as_shell(word: str) -> str:
    """Return a word that has single quotes in it, as it is typed in a shell."""
    return f'"{word}"'


def parse(word: str) -> Any:
    """Return what Hydra reads in a word.

    Raises:
        HydraException: the word is not in its grammar.
    """
    try:
        return create_parser().parse_override(word)
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, lists in lists
        raise HydraException(first_line(error)) from error


def parses(word: str) -> bool:
    """Whether a word is in Hydra's grammar."""
    try:
        parse(word)
    except HydraException:
        return False
    return True


def is_reference(value: str) -> bool:
    """Whether OmegaConf can read the references in a text."""
    try:
        OmegaConf.create({"value": value})
    except OmegaConfBaseException:
        return False
    return True


@cache
def create_parser() -> OverridesParser:
    return OverridesParser.create()
