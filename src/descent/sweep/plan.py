"""What a sweep consists of: the words that all its runs have, and the values that make them differ."""

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import product
from pathlib import Path
from typing import Any

import yaml

from descent.errors import ConfigError
from descent.run.atomic import write_text
from descent.run.folder import RunFolder, read_text, read_yaml

PLAN = "sweep.yaml"
DONE = ".done"  # a run that ended as it should, though it may have tested nothing
PRUNED = ".pruned"  # a run that a search has ended before its time
LONGEST = 120  # characters of a folder's name
PATIENCE = 60.0  # seconds for the runs of a sweep that was killed to save what they have


@dataclass(frozen=True, eq=False)
class Point:
    """One combination of values, and its run.

    Attributes:
        values: what differs from the other runs, as typed, by key.
        words: of the run's command line, without its folder.
        folder: of the run.
    """

    values: Mapping[str, str]
    words: tuple[str, ...]
    folder: RunFolder

    @property
    def name(self) -> str:
        """Its name in the sweep, such as `loss=mae,seed=0`."""
        return self.folder.path.name

    def state(self) -> str:
        """Return whether its run is "done", "pruned", "begun" or "missing"."""
        if not self.folder.config.exists():
            return "missing"
        if (self.folder.path / DONE).exists() or "test" in read_result(self.folder):
            return "done"
        return "pruned" if (self.folder.path / PRUNED).exists() else "begun"

    def is_over(self) -> bool:
        """Return whether nothing is to be done for it any more."""
        return self.state() in ("done", "pruned")


class Source:
    """Where points come from: here those of a list that are not over, one after another."""

    def __init__(self, points: Iterable[Point]) -> None:
        self.waiting = [point for point in points if not point.is_over()]

    def take(self) -> Point | None:
        """Return the next point to run; None where there is none."""
        return self.waiting.pop(0) if self.waiting else None

    def left(self) -> int:
        """Return how many are still to be taken."""
        return len(self.waiting)

    def ended(self, point: Point) -> None:
        """Learn that a run is no longer at work."""

    def is_hopeless(self, point: Point) -> bool:
        """Return whether a run that is at work had better end."""
        return False


@dataclass
class Plan:
    """A sweep: a run for each combination of values.

    Attributes:
        folder: of the sweep.
        words: that all runs have.
        values: of each key that varies, as typed; of a search, what it draws from.
        search: settings of the group search, if there are any.
    """

    folder: Path
    words: list[str]
    values: dict[str, list[str]]
    search: dict[str, Any] = field(default_factory=dict)

    def points(self) -> list[Point]:
        """Return every combination, the last key varying fastest; of a search, the trials that there are."""
        if self.has_trials():
            return list(self.trials().values())
        return [
            self.point(dict(zip(self.values, chosen, strict=True)))
            for chosen in product(*self.values.values())
        ]

    def point(self, values: Mapping[str, str]) -> Point:
        """Return the run of some values."""
        varying = [f"{key}={value}" for key, value in values.items()]
        folder = RunFolder(self.folder / name_folder(varying))
        return Point(values, (*self.words, *varying), folder)

    def has_trials(self) -> bool:
        """Return whether runs are proposed as it goes; else all combinations are run."""
        return "sampler" in self.search

    def trial(self, number: int, values: Mapping[str, str]) -> Point:
        """Return a run of a search, from 0."""
        point = self.point(values)
        return Point(values, point.words, RunFolder(self.folder / f"{number:03},{point.name}"))

    def trials(self) -> dict[int, Point]:
        """Return the runs of a search that have a folder, by their numbers."""
        found = {}
        for path in sorted(self.folder.glob("[0-9]*,*")):
            number, words = path.name.partition(",")[0], RunFolder(path).overrides
            if number.isdecimal() and words.is_file():
                saved = dict(str(word).partition("=")[::2] for word in read_yaml(words))
                values = {key: saved[key] for key in self.values if key in saved}
                if values.keys() == self.values.keys():
                    found[int(number)] = Point(values, self.point(values).words, RunFolder(path))
        return found

    def is_like(self, other: "Plan") -> bool:
        """Return whether another sweep differs in the values alone."""
        same = sorted(self.saved()) == sorted(other.saved()) and set(self.values) == set(other.values)
        return same and self.search == other.search and (not self.has_trials() or self.values == other.values)

    def add(self, other: "Plan") -> None:
        """Take another sweep's values first, and then what is new in this one."""
        self.words = [*other.saved(), *(word for word in self.words if word not in self.saved())]
        self.values = {
            key: list(dict.fromkeys([*values, *self.values[key]])) for key, values in other.values.items()
        }

    def saved(self) -> list[str]:
        """Return the words that all runs have, without those to Hydra itself."""
        return [word for word in self.words if not word.startswith("hydra")]

    def typed(self) -> list[str]:
        """Return the words of a command line that means this sweep."""
        return [*self.words, *(f"{key}={','.join(values)}" for key, values in self.values.items())]

    def write(self) -> None:
        """Write the plan into its folder."""
        content = {"words": self.saved(), "values": self.values, "search": self.search}
        write_text(self.folder / PLAN, yaml.safe_dump(content, sort_keys=False, allow_unicode=True))


def read_plan(folder: Path) -> Plan:
    """Return the plan in a folder.

    Raises:
        ConfigError: there is none, or something else in its file.
    """
    if not (folder / PLAN).is_file():
        raise ConfigError("resume", str(folder), expected=f"the folder of a sweep; it has no {PLAN}")
    content = read_yaml(folder / PLAN)
    content = content if isinstance(content, dict) else {}
    words, values, search = (content.get(key) for key in ("words", "values", "search"))
    lists: list[Any] = [words, *values.values()] if isinstance(values, dict) else [None]
    if not all(isinstance(texts, list) and all(isinstance(text, str) for text in texts) for texts in lists):
        raise ConfigError(str(folder / PLAN), expected="what a sweep writes: words, and values by key")
    by_key = {str(key): texts for key, texts in zip(values or (), lists[1:], strict=True)}
    return Plan(folder, lists[0], by_key, search if isinstance(search, dict) else {})


def find_plan(wanted: Plan, parent: Path) -> Plan | None:
    """Return the newest sweep in a folder that is like another one, or None."""
    files = [file for file in parent.glob(f"*/{PLAN}") if file.is_file()]
    for file in sorted(files, key=lambda file: file.stat().st_mtime_ns, reverse=True):
        plan = read_plan(file.parent)
        if plan.is_like(wanted):
            return plan
    return None


def name_folder(words: Sequence[str]) -> str:
    """Return `loss=mae,seed=0` of the words that vary: a name of its own for each, on every file system."""
    text = ",".join(re.sub(r"[\[\]'\"]", "", word.lstrip("+~")) for word in words)
    name = re.sub(r"[^\w.=+,-]+", "_", text)[:LONGEST] or "run"
    if name == text or not words:
        return name
    return f"{name}-{blake2b(repr(words).encode(), digest_size=3).hexdigest()}"


def read_result(folder: RunFolder) -> dict[str, Any]:
    """Return what came of a run: seconds, "final", "best" and "test" figures; empty before its end."""
    return read_json(folder.result)


def read_json(file: Path) -> dict[str, Any]:
    """Return what a run wrote into a file; empty where it has not done so yet."""
    try:
        content = json.loads(read_text(file))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def best_figures(result: Mapping[str, Any]) -> dict[str, float]:
    """Return the figures of a run's best epoch, or of the last where no best was kept, and of its test."""
    rows = [result.get("best") or result.get("final"), result.get("test")]
    figures = {name: value for row in rows if isinstance(row, dict) for name, value in row.items()}
    return {name: float(v) for name, v in figures.items() if isinstance(v, int | float) and math.isfinite(v)}


@contextmanager
def hold(plan: Plan) -> Iterator[None]:
    """Make a sweep's folder and keep other processes out, once runs that it may still have are at their end.

    Raises:
        ConfigError: the folder cannot be made; or the sweep is running, or one of its runs is.
    """
    try:
        plan.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        expected = f"a folder that can be made ({error.strerror})"
        raise ConfigError("folder", str(plan.folder), expected=expected) from error
    with lock(RunFolder(plan.folder), patience=0):
        for point in plan.points():
            if point.state() == "begun":
                with lock(point.folder, PATIENCE):
                    pass
        yield


@contextmanager
def lock(folder: RunFolder, patience: float) -> Iterator[None]:
    """Hold the lock of a folder, after so many seconds at most."""
    from filelock import FileLock, Timeout  # comes with torch

    held = FileLock(folder.lock, timeout=patience)
    try:
        held.acquire()
    except Timeout as error:
        raise ConfigError("resume", str(folder), expected="what has ended; this is running") from error
    try:
        yield
    finally:
        held.release()
