"""Errors that users can cause: each keeps its parts, and only this file turns them into words."""

import errno
import sysconfig
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from difflib import get_close_matches
from pathlib import Path
from traceback import walk_tb
from typing import Any

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)  # of a disk; no value can fix them
KNOWN = {Path(__file__).resolve().parent, Path(sysconfig.get_path("stdlib"))}
PACKAGES = {"site-packages", "dist-packages"}  # by name, as an environment on top of others has several
ABSENT = object()


class ConfigError(ValueError):
    """A choice that cannot work, in one line: `key=value: expected …; nearest: …`.

    Every mistake that this package detects raises this; any other exception is a bug, with its traceback.
    The key is a config key, such as "model.hidden"; a class that the config builds gives the name of its own
    argument, which `blame` completes. The line names the choice nearest to the value, or to `meant`.
    """

    def __init__(
        self,
        key: str,
        value: object = ABSENT,
        *,
        expected: str,
        choices: Iterable[str] = (),
        meant: str | None = None,
    ) -> None:
        super().__init__()
        self.key, self.value, self.expected = key, value, expected
        self.nearest = nearest(str(value) if meant is None else meant, choices)

    def line(self, typed: Mapping[str, str]) -> str:
        """Return the error in words; without a value, it reports what is `typed` at its key and below."""
        subject = f"{self.key}={as_typed(self.value)}"
        if self.value is ABSENT:
            below = (f"{k}={v}" for k, v in typed.items() if f"{k}.".startswith(f"{self.key}."))
            subject = " ".join(below) or self.key
        near = f"; nearest: {self.nearest}" if self.nearest else ""
        return f"{subject}: expected {self.expected}{near}"

    def __str__(self) -> str:
        return self.line({})


class Stopped(Exception):
    """Ends a run early, with one line and an exit code: a signal, a NaN loss, a full disk."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


class blame(AbstractContextManager["blame", None]):
    """`with blame("optimizer"):` names the part of the config at fault if its body raises.

    A `ConfigError` gets the part's name before its key, and what a library raises becomes a `ConfigError`.
    An exception from added code keeps its traceback.
    """

    def __init__(self, key: str) -> None:
        self.key = key

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        helpless = isinstance(error, Stopped) or getattr(error, "errno", None) in FULL
        if isinstance(error, ConfigError):
            if error.key.partition(".")[0] != self.key.partition(".")[0]:
                error.key = f"{self.key}.{error.key}"
        elif isinstance(error, Exception) and not helpless and is_of_libraries(error):
            expected = f"valid values ({first_line(error)})"
            raise ConfigError(self.key, expected=expected) from error


def is_of_libraries(error: BaseException) -> bool:
    """Whether an exception passed only through code of libraries and this package."""
    files = list_files(error)
    return all(KNOWN & {*file.parents} or PACKAGES & {*file.parts} or file.name[0] == "<" for file in files)


def list_files(error: BaseException) -> list[Path]:
    """Return the files that an exception passed through, except the one that caught it."""
    return [Path(frame.f_code.co_filename) for frame, _ in walk_tb(error.__traceback__)][1:]


def require(condition: bool, key: str, value: object, expected: str) -> None:
    """Raise `ConfigError(key, value, expected)` unless `condition` holds."""
    if not condition:
        raise ConfigError(key, value, expected=expected)


def require_one_of(choices: Iterable[str], key: str, value: str, shown: str = "") -> None:
    """Raise a `ConfigError` unless the value is one of the choices; `shown` stands for a long list."""
    choices = list(choices)
    if value not in choices:
        raise ConfigError(key, value, expected=shown or "one of " + ", ".join(choices), choices=choices)


def nearest(word: str, words: Iterable[str]) -> str:
    """Return the word nearest to another, preferably one with the same letters; "" if none is near."""
    words = list(words)
    if word in ("null", "None", "false", "off") and "none" in words:  # which these do not resemble
        return "none"
    return max(get_close_matches(word, words), key=lambda w: sorted(w) == sorted(word), default="")


def first_line(error: BaseException) -> str:
    """Return the first line of an exception's message, or the name of its type."""
    lines = str(error).strip().splitlines()
    return lines[0].strip() if lines else type(error).__name__


def as_typed(value: object) -> str:
    """Return a value as written on the command line: `null`, `true`, `[1, 2]`."""
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


def clean(text: str) -> str:
    """Remove control characters except line ends: names of files and columns may contain any."""
    return "".join(c if c.isprintable() or c == "\n" else "\ufffd" for c in text)
