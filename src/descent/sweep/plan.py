"""A sweep's plan: the overrides that all its runs share, the values that vary, and the state of each."""

import json
import math
import os
import re
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import product
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout  # comes with torch

from descent.errors import ConfigError, require
from descent.run.atomic import write_text
from descent.run.folder import RunFolder
from descent.run.trust import read_text, read_yaml

PLAN, STOP = "sweep.yaml", ".stop"  # the second file asks every run of a sweep to save and end
DONE, PRUNED = ".done", ".pruned"  # in a run's folder: it ended normally; a search ended it early
MOST = 100_000  # runs of a sweep
LONGEST = 120  # characters of a folder's name
PATIENCE = 5.0  # seconds that a killed sweep's runs get to release it


@dataclass(frozen=True, eq=False)
class Point:
    """One combination of values, and its run; it is sent to processes on other machines unchanged."""

    values: Mapping[str, str]  # what differs from the other runs, as typed, by key
    words: tuple[str, ...]  # the run's overrides, without its folder
    folder: RunFolder  # created by the run itself

    @property
    def name(self) -> str:
        """Its name in the sweep, such as `loss=mae,seed=0`."""
        return self.folder.path.name

    def find_lock(self) -> FileLock:
        """Return the lock that the process working on the run holds, on whichever machine."""
        return FileLock(self.folder.path.with_name(f".{self.name}.lock"))

    def find_log(self) -> Path:
        """Return the file of the run's output: next to its folder, until that is permanent."""
        beside = self.folder.path.with_name(f".{self.name}.log")
        if beside.exists() and (self.folder.metrics.exists() or (self.folder.path / DONE).exists()):
            beside.replace(self.folder.log)
        return self.folder.log if self.folder.log.exists() else beside

    def line(self) -> list[str]:
        """Return the run's command line, which resumes a run that has begun."""
        path = str(self.folder.path).replace("'", "\\'")
        return [*self.words, f"folder='{path}'", *([f"resume='{path}'"] if self.state() == "begun" else [])]

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
        """Return whether a process is working on it."""
        files = (Path(self.find_lock().lock_file), self.folder.lock)
        return any(file.exists() and take_lock(file) is None for file in files)

    def must_end(self) -> bool:
        """Return whether the run is asked to save and end."""
        return (self.folder.path.parent / STOP).exists() or (self.folder.path / PRUNED).exists()

    def leave(self, code: int) -> int:
        """Record that the run has ended, and return its exit code."""
        if code == 0 and self.folder.config.exists():
            (self.folder.path / DONE).touch()
        self.find_log()
        Path(self.find_lock().lock_file).unlink(missing_ok=True)
        return code


@dataclass
class Plan:
    """A sweep: a run for each combination of values, or the trials of a search."""

    folder: Path
    words: list[str]  # that all runs share
    values: dict[str, list[str]]  # of each key that varies, as typed; a range that a search draws from
    search: list[str] = field(default_factory=list)  # overrides for the search

    def __post_init__(self) -> None:
        for key, values in self.values.items():
            require(bool(values), key, "", "at least one value")
        size = math.prod(map(len, self.values.values()))
        require(size <= MOST, "sweep", f"{size:.4g} runs", f"at most {MOST} runs")

    def points(self) -> Iterator[Point]:
        """Yield every combination, the last key varying fastest."""
        for chosen in product(*self.values.values()):
            yield self.point(dict(zip(self.values, chosen, strict=True)))

    def point(self, values: Mapping[str, str], number: int | None = None) -> Point:
        """Return the run with some values; in a search, with its number."""
        varying = [f"{key}={value}" for key, value in values.items()]
        name = ("" if number is None else f"{number:03},") + name_folder(varying)
        return Point(values, (*self.words, *varying), RunFolder(self.folder / name))

    def typed(self) -> list[str]:
        """Return a command line that asks for this sweep."""
        values = [f"{key}={','.join(texts)}" for key, texts in self.values.items()]
        return [*self.words, *self.search, *values]

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
    parts = content if isinstance(content, dict) else {}
    words, values, search = (parts.get(key) for key in ("words", "values", "search"))
    lists: list[Any] = [words, search, *values.values()] if isinstance(values, dict) else [None]
    if not all(isinstance(texts, list) and all(isinstance(text, str) for text in texts) for texts in lists):
        raise ConfigError(str(folder / PLAN), expected="what a sweep writes: words, and values by key")
    return Plan(folder, lists[0], dict(zip(map(str, values or ()), lists[2:], strict=True)), lists[1])


def find_plan(wanted: Plan, parent: Path) -> Plan | None:
    """Return the newest sweep in a folder that is like another one, or None."""
    for file in sorted(parent.glob(f"*/{PLAN}"), key=lambda file: file.stat().st_mtime_ns, reverse=True):
        with suppress(ConfigError):  # not a sweep
            if (plan := read_plan(file.parent)).is_like(wanted):
                return plan
    return None


def name_folder(words: Sequence[str]) -> str:
    """Return `loss=mae,seed=0` from the values that vary: a unique name, valid on every file system."""
    text = ",".join(re.sub(r"[\[\]'\"]", "", word.lstrip("+~")) for word in words)
    name = re.sub(r"[^\w.=+,-]+", "_", text)[:LONGEST] or "run"
    if name == text or not words:
        return name
    return f"{name}-{blake2b(repr(words).encode(), digest_size=3).hexdigest()}"


def read_json(file: Path) -> dict[str, Any]:
    """Return what a run wrote to a file; empty if it has not written it yet."""
    try:
        content = json.loads(read_text(file))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def hold(folder: Path) -> FileLock:
    """Create a sweep's folder, and return the lock that keeps other sweeps out until it is released."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError("folder", str(folder), expected=f"a new folder ({error.strerror})") from error
    require_plain(folder)
    if (lock := take_lock(RunFolder(folder).lock, PATIENCE)) is None:
        raise ConfigError("resume", str(RunFolder(folder)), expected="what has ended; this is running")
    return lock


def take_lock(file: Path, patience: float = 0) -> FileLock | None:
    """Return a lock, held until it is garbage collected; None if another process holds it."""
    lock = FileLock(file, timeout=patience)
    try:
        lock.acquire()
    except Timeout:
        return None
    return lock


def require_plain(folder: Path) -> None:
    """Reject an output folder in which a link, a pipe or a device leads elsewhere."""
    for parent, folders, files in os.walk(folder):
        for path in (Path(parent, name) for name in (*folders, *files)):
            with suppress(FileNotFoundError):  # an active run has removed it
                kind = path.lstat().st_mode
                expected = "a folder of plain files; this is a link, a pipe or a device"
                require(stat.S_ISREG(kind) or stat.S_ISDIR(kind), "resume", RunFolder(path), expected)
        if Path(parent) == folder and "wandb" in folders:
            folders.remove("wandb")  # W&B's own folder, which contains links
