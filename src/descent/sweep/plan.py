"""A sweep's plan: the overrides that all its runs share, the values that vary, and the state of each."""

import json
import math
import os
import re
import stat
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import product
from pathlib import Path
from socket import gethostname
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
PATIENCE = 5.0  # seconds for the runs of a sweep that was killed to let go of it
STALE = 60.0  # seconds after which a process of another machine that shows no sign of life is gone


@dataclass(frozen=True, eq=False)
class Point:
    """One combination of values, and its run; it is sent to processes on other machines unchanged."""

    values: Mapping[str, str]  # what differs from the other runs, as typed, by key
    words: tuple[str, ...]  # of the run's command line, without its folder
    folder: RunFolder  # which the run makes itself, once its words have proved good

    @property
    def name(self) -> str:
        """Its name in the sweep, such as `loss=mae,seed=0`."""
        return self.folder.path.name

    def beside(self, suffix: str) -> Path:
        """Return a hidden file beside the run's folder: ".live" or ".log"."""
        return self.folder.path.with_name(f".{self.name}{suffix}")

    def find_log(self) -> Path:
        """Return the file of what the run prints."""
        return self.folder.log if self.folder.log.exists() else self.beside(".log")

    def line(self) -> list[str]:
        """Return the words of the run's command line: it goes on with what it has begun."""
        path = str(self.folder.path).replace("\\", "\\\\").replace("'", "\\'").replace("${", "\\${")
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
        """Return whether a process is at work on it, on this machine or on another one."""
        mark = self.beside(".live")
        with suppress(OSError, ValueError):
            host, process = mark.read_text().split()
            if time.time() - mark.stat().st_mtime < STALE:
                if host == gethostname() and os.name == "posix":
                    os.kill(int(process), 0)  # raises where there is none
                return True
        return self.folder.lock.exists() and take_lock(self.folder) is None

    def claim(self) -> bool:
        """Note that this process is at work on the run, unless another one is."""
        if self.is_live():
            return False
        mark = self.beside(".live")
        mark.unlink(missing_ok=True)
        with suppress(FileExistsError), mark.open("x") as file:
            return file.write(f"{gethostname()} {os.getpid()}") > 0
        return False

    def look(self) -> bool:
        """From the process at work: show that it lives, put its log in place; return whether it is to end."""
        with suppress(OSError):
            os.utime(self.beside(".live"))
        if self.folder.metrics.exists() and self.beside(".log").exists():  # the folder is there to stay
            self.beside(".log").replace(self.folder.log)
        return (self.folder.path.parent / STOP).exists() or (self.folder.path / PRUNED).exists()

    def leave(self, code: int) -> int:
        """From the process at work: note that the run has ended, and return its exit code."""
        if self.folder.config.exists():
            with suppress(FileNotFoundError):
                self.beside(".log").replace(self.folder.log)
            if code == 0:
                (self.folder.path / DONE).touch()
        self.beside(".live").unlink(missing_ok=True)
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
            good = 1 <= len(values) <= MOST // 4
            require(good, key, f"{len(values)} values", f"at least one value, and at most {MOST // 4}")
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
        same = (
            all(w.startswith(("hydra", "trials=")) for w in words)
            and self.values.keys() == other.values.keys()
        )
        return same and (not self.search or self.values == other.values)

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
        expected = f"a folder that can be made ({error.strerror})"
        raise ConfigError("folder", str(folder), expected=expected) from error
    require_plain(folder)
    if (lock := take_lock(RunFolder(folder), PATIENCE)) is None:
        raise ConfigError("resume", str(RunFolder(folder)), expected="what has ended; this is running")
    return lock


def take_lock(folder: RunFolder, patience: float = 0) -> FileLock | None:
    """Return the lock of a folder, held until it is forgotten; None where another process holds it."""
    lock = FileLock(folder.lock, timeout=patience)
    try:
        lock.acquire()
    except Timeout:
        return None
    return lock


def require_plain(folder: Path) -> None:
    """Reject an output folder in which a link, a pipe or a device leads elsewhere."""
    for parent, folders, files in os.walk(folder):
        for path in (f"{parent}/{name}" for name in (*folders, *files)):
            with suppress(FileNotFoundError):  # a run at work has removed it
                kind = os.lstat(path).st_mode
                good = stat.S_ISREG(kind) or stat.S_ISDIR(kind)
                expected = "a folder of plain files; this is a link, a pipe or a device"
                require(good, "resume", os.path.relpath(path), expected)
        if parent == str(folder):
            folders[:] = [
                name for name in folders if name != "wandb"
            ]  # W&B's own, with links among its files
