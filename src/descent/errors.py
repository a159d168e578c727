"""What a person can get wrong, in parts: the key, its value, what was expected. Put into words here alone."""

import sysconfig
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from traceback import walk_tb
from types import TracebackType

LIBRARIES = {Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib", "platlib")}
HERE = Path(__file__).resolve().parent
ABSENT = object()
NOTHING = ("null", "None", "false", "off")  # typed to be without something


class ConfigError(ValueError):
    """A choice that cannot work, told in one line: `key=value: expected …; nearest: …`.

    Everything in this package that a person can get wrong raises this. Any other exception is a bug, in the
    template or in code that was added to it, and keeps its traceback.

    Args:
        key: of the config, such as "model.hidden", or a file's path. Code that is built from a part of the
            config gives its own argument's name, which `blame` completes.
        value: of the key; left out where the line is not about one value.
        expected: what would have been right.
        choices: the words that the value may have been meant to be; the nearest one is told.
    """

    def __init__(
        self, key: str, value: object = ABSENT, *, expected: str, choices: Iterable[str] = ()
    ) -> None:
        super().__init__()
        self.key, self.value, self.expected = key, value, expected
        self.nearest = nearest(str(value), choices)

    def line(self, typed: Mapping[str, str]) -> str:
        """The error in words.

        Args:
            typed: what the command line sets, by key. An error without a value is about what is typed at
                its key and below.
        """
        if self.value is not ABSENT:
            subject = f"{self.key}={as_typed(self.value)}"
        else:
            below = {k: v for k, v in typed.items() if k == self.key or k.startswith(f"{self.key}.")}
            subject = " ".join(f"{k}={v}" for k, v in below.items()) or self.key
        near = f"; nearest: {self.nearest}" if self.nearest else ""
        return f"{subject}: expected {self.expected}{near}"

    def __str__(self) -> str:
        return self.line({})


class Stopped(Exception):
    """A run that ends before its time, told in one line: a signal, a loss that is not a number, a full disk.

    Args:
        message: why, and how to go on.
        code: the exit status of the process.
    """

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


class blame:
    """`with blame("optimizer"):` tells what goes wrong in its body as the fault of that part of the config.

    A `ConfigError` gets the part's name before its key. What a library raises becomes a `ConfigError`. What
    passed through code that somebody added to the template keeps its traceback, for that may be a bug.
    """

    def __init__(self, key: str) -> None:
        self.key = key

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if isinstance(error, ConfigError):
            if error.key.partition(".")[0] != self.key.partition(".")[0]:
                error.key = f"{self.key}.{error.key}"
        elif isinstance(error, Exception) and not isinstance(error, Stopped) and is_of_values(error):
            expected = f"values that it takes ({first_line(error)})"
            raise ConfigError(self.key, expected=expected) from error


def is_of_values(error: Exception) -> bool:
    """Whether a library, called by this package alone, did not take what it was given.

    What this package itself raises without meaning to is a bug of it.
    """
    meant = isinstance(error, TypeError | ValueError | RuntimeError | ArithmeticError)
    files = list_files(error)
    return is_of_libraries(error) and (meant or bool(files and HERE not in files[-1].parents))


def is_of_libraries(error: BaseException) -> bool:
    """Whether an exception passed through no code but that of libraries and this package."""
    return all({HERE, *LIBRARIES} & {*file.parents} or file.name[0] == "<" for file in list_files(error))


def list_files(error: BaseException) -> list[Path]:
    """The files that an exception passed through, without the one that caught it."""
    return [Path(frame.f_code.co_filename) for frame, _ in walk_tb(error.__traceback__)][1:]


def require(condition: bool, key: str, value: object, expected: str) -> None:
    """Raise `ConfigError(key, value, expected)` unless `condition` holds."""
    if not condition:
        raise ConfigError(key, value, expected=expected)


def require_one_of(choices: Iterable[str], key: str, value: str, shown: str = "") -> None:
    """Raise a `ConfigError` that names the nearest choice, unless the value is one of them.

    Args:
        choices: the words that can be chosen.
        key: of the config.
        value: of the key.
        shown: what to say in place of a long list of choices.
    """
    choices = list(choices)
    if value not in choices:
        raise ConfigError(key, value, expected=shown or "one of " + ", ".join(choices), choices=choices)


def nearest(word: str, words: Iterable[str]) -> str:
    """The word most like another one, or "" where none is; of equally near words, one of the same letters."""
    words = list(words)
    if word in NOTHING:  # which is like no other word
        return "none" if "none" in words else ""
    close = get_close_matches(word, words)
    close.sort(key=lambda other: sorted(other) != sorted(word))
    return close[0] if close else ""


def first_line(error: BaseException) -> str:
    """The first line of an exception's message, or its type's name."""
    lines = str(error).strip().splitlines()
    return lines[0].strip() if lines else type(error).__name__


def as_typed(value: object) -> str:
    """A value as it is written on the command line: `null`, `true`, `[1, 2]`."""
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)
