"""A sweep's plan: the overrides that all its runs share, the values that vary, and the state of each."""

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import product
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout  # comes with torch

from descent.cli.overrides import quote
from descent.errors import ConfigError, require
from descent.run.atomic import write_text
from descent.run.folder import RunFolder
from descent.run.trust import read_text, read_yaml, require_no_links

PLAN, STOP = "sweep.yaml", ".stop"  # the second file asks every run of a sweep to save and end
DONE, PRUNED = ".done", ".pruned"  # in a run's folder: it ended normally; a search ended it early
MOST = 100_000  # runs of a sweep
LONGEST = 120  # characters of a folder's name
PATIENCE = 5.0  # seconds in which the runs of a killed sweep release it


@dataclass(frozen=True, eq=False)
class Point:
    """One combination of values, and its run; it is sent to processes on other machines unchanged.

    The process that runs it claims it, checks on it several times a second, and releases it.
    """

    values: Mapping[str, str]  # what differs from the other runs, as typed, by key
    words: tuple[str, ...]  # of the run's command line, without its folder
    folder: RunFolder  # which the run creates itself, once its words are checked

    @property
    def name(self) -> str:
        """Its name in the sweep, such as `loss=mae,seed=0`."""
        return self.folder.path.name

    def beside(self, suffix: str) -> Path:
        """Return a hidden file next to the run's folder: ".live" or ".log"."""
        return self.folder.path.with_name(f".{self.name}{suffix}")

    def find_log(self) -> Path:
        """Return the file of what the run prints."""
        return self.folder.log if self.folder.log.exists() else self.beside(".log")

    def last_line(self) -> str:
        """Return the last line that the run has printed."""
        log = self.find_log()
        text = log.read_text(encoding="utf-8", errors="replace") if log.is_file() else ""
        return text.strip().rpartition("\n")[2].strip()

    def line(self) -> list[str]:
        """Return the words of the run's command line: it continues what it has begun."""
        path = quote(str(self.folder.path))
        return [*self.words, f"folder={path}", *([f"resume={path}"] if self.state() == "begun" else [])]

    def state(self) -> str:
        """Return whether the run is "done", "pruned", "begun" or "missing"."""
        if (self.folder.path / DONE).exists():
            return "done"
        if not self.folder.config.exists():
            return "missing"
        if "test" in read_json(self.folder.result):  # it was killed before it could record that
            return "done"
        return "pruned" if (self.folder.path / PRUNED).exists() else "begun"

    def is_over(self) -> bool:
        """Return whether nothing is left to do."""
        return self.state() in ("done", "pruned")

    def is_live(self) -> bool:
        """Return whether a process is at work on it, on this machine or on another one."""
        try:
            for file in filter(Path.exists, (self.beside(".live"), self.folder.lock)):
                with FileLock(file, timeout=0):
                    pass
        except Timeout:
            return True
        return False

    @contextmanager
    def claim(self) -> Iterator[None]:
        """Keep other processes from running it; wait for one that already does."""
        with FileLock(self.beside(".live")):
            yield
        self.beside(".live").unlink(missing_ok=True)

    def look(self) -> bool:
        """Put the log of the run in place, and return whether it is to end."""
        if self.folder.metrics.exists() and self.beside(".log").exists():  # from now on the folder stays
            self.beside(".log").replace(self.folder.log)
        return (self.folder.path.parent / STOP).exists() or (self.folder.path / PRUNED).exists()

    def leave(self, code: int) -> int:
        """Note that the run has ended, and return its exit code."""
        if self.folder.config.exists():
            with suppress(FileNotFoundError):
                self.beside(".log").replace(self.folder.log)
            if code == 0:
                (self.folder.path / DONE).touch()
        return code


@dataclass
class Plan:
    """A sweep: a run for each combination of values, or the trials of a search."""

    folder: Path
    words: list[str]  # that all runs share
    values: dict[str, list[str]]  # of each key that varies, as typed; a range that a search draws from
    search: list[str] = field(default_factory=list)  # overrides for the search
    more: list[str] = field(default_factory=list)  # and for the executor, which are not saved

    def __post_init__(self) -> None:
        size = math.prod(map(len, self.values.values()))
        require(1 <= size <= MOST, "sweep", f"{size:.4g} runs", f"at least one run, and at most {MOST}")

    def points(self) -> Iterator[Point]:
        """Yield every combination, the last key varying fastest."""
        for chosen in product(*self.values.values()):
            yield self.point(dict(zip(self.values, chosen, strict=True)))

    def point(self, values: Mapping[str, str], number: int | None = None) -> Point:
        """Return the run with some values; in a search, with its number."""
        varying = [f"{key}={value}" for key, value in values.items()]
        name = ("" if number is None else f"{number:03},") + name_folder(varying)
        return Point(values, (*self.words, *varying), RunFolder(self.folder / name))

    def is_like(self, other: "Plan") -> bool:
        """Return whether another sweep differs only in the values or, for a search, not even in those."""
        words = {*self.words, *self.search} ^ {*other.words, *other.search}
        if not all(word.startswith(("hydra", "trials=")) for word in words):
            return False
        return self.values == other.values if self.search else self.values.keys() == other.values.keys()

    def write(self) -> None:
        """Write the plan into its folder."""
        words = [word for word in self.words if not word.startswith("hydra")]
        content = {"words": words, "values": self.values, "search": self.search}
        write_text(self.folder / PLAN, yaml.safe_dump(content, sort_keys=False, allow_unicode=True))


def read_plan(folder: Path) -> Plan:
    """Return the plan in a folder; a ConfigError if there is none, or it exceeds a sweep's maximum size."""
    content = read_yaml(folder / PLAN)
    try:
        words, values, search = (content[name] for name in ("words", "values", "search"))
        texts = [*words, *values, *search, *(text for several in values.values() for text in several)]
    except (TypeError, KeyError, AttributeError):
        texts = [None]
    if not all(isinstance(text, str) for text in texts):
        raise ConfigError(str(folder / PLAN), expected="a sweep's overrides, and values by key")
    return Plan(folder, list(words), {key: list(several) for key, several in values.items()}, list(search))


def find_before(plan: Plan, resume: object) -> Plan | None:
    """Return the earlier sweep that a planned one continues, or None for a new one.

    It is in the same folder or, with `resume=true`, the newest one next to it with the same words.
    """
    parent, here = plan.folder.parent, plan.folder / PLAN
    if here.exists():
        expected = "a folder without a sweep, or resume=true, which continues it"
        require(bool(resume), "folder", RunFolder(plan.folder), expected)
        return read_plan(plan.folder)
    files = sorted(parent.glob(f"*/{PLAN}"), key=lambda file: file.stat().st_mtime_ns, reverse=True)
    for file in files if resume is True else ():
        with suppress(ConfigError):  # not a sweep
            if (found := read_plan(file.parent)).is_like(plan):
                return found
    expected = f"a sweep with these overrides in {RunFolder(parent)}; there is none"
    require(not resume, "resume", resume, expected)
    return None


def name_folder(words: Sequence[str]) -> str:
    """Return `loss=mae,seed=0` from the values that vary: a unique name, valid on every file system."""
    text = ",".join(re.sub(r"[\[\]'\"]", "", word.lstrip("+~")) for word in words) or "run"
    name = re.sub(r"[^\w.=+,-]+", "_", text)[:LONGEST]
    return name if name == text else f"{name}-{blake2b(repr(words).encode(), digest_size=3).hexdigest()}"


def read_json(file: Path) -> dict[str, Any]:
    """Return what a run wrote to a file; empty if it has not written it yet."""
    try:
        content = json.loads(read_text(file))
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(content, dict):
        raise ConfigError(str(file), expected="values by name, as a run writes them")
    return content


def hold(folder: Path) -> AbstractContextManager[Any]:
    """Create a sweep's folder, and return the lock that keeps other sweeps out of it."""
    require_no_links(folder, ignored=folder / "wandb")  # W&B's own, with links among its files
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return FileLock(RunFolder(folder).lock, timeout=PATIENCE).acquire()
    except Timeout as error:
        expected = "one that has ended; this one is active"
        raise ConfigError("resume", RunFolder(folder), expected=expected) from error
    except OSError as error:
        expected = f"a folder that can be created ({error.strerror})"
        raise ConfigError("folder", folder, expected=expected) from error
