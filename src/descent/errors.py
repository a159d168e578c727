"""The exceptions that the commands print as a line instead of a traceback."""

from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path
from traceback import extract_tb


class ConfigError(ValueError):
    """A choice that cannot work. The message names the key, the value and what was expected.

    Everything in this package that a person can get wrong from the command line raises this;
    any other exception is a bug, in the template or in code that was added to it, and keeps its traceback.
    """


class Stopped(Exception):
    """A run that ends before its time, told in one line: a signal, a loss that is not a number, a full disk.

    Args:
        message: why, and how to go on.
        code: the exit status of the process.
    """

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


def of_added_code(error: BaseException) -> bool:
    """Whether the line that raised it is neither in an installed library nor in this package: a bug in code
    that was added to the template, and no value that something does not take."""
    raised_in = Path(extract_tb(error.__traceback__)[-1].filename).resolve()
    return "site-packages" not in raised_in.parts and Path(__file__).resolve().parent not in raised_in.parents


def require(condition: bool, name: str, value: object, expected: str) -> None:
    """Raise `ConfigError("name=value: expected …")` unless `condition` holds."""
    if not condition:
        raise ConfigError(f"{name}={value}: expected {expected}")


def require_one_of(choices: Iterable[str], name: str, value: str, shown: str = "") -> None:
    """Raise `ConfigError("name=value: expected one of …; nearest: …")` unless the value is among the choices.

    Args:
        choices: the words that can be chosen.
        name: of the key.
        value: of the key.
        shown: what to say in place of a long list of choices.
    """
    choices = list(choices)
    if value not in choices:
        expected = shown or "one of " + ", ".join(choices)
        raise ConfigError(f"{name}={value}: expected {expected}{nearest(value, choices)}")


def nearest(word: str, words: Iterable[str]) -> str:
    """`; nearest: …`, or nothing where no word is near; of equally near words, one of the same letters."""
    close = get_close_matches(word, words)
    close.sort(key=lambda other: sorted(other) != sorted(word))
    return f"; nearest: {close[0]}" if close else ""
