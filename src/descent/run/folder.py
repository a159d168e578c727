"""A run's folder: the names of its files, and how to claim it."""

import os
import shlex
import shutil
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

from descent.errors import FULL, ConfigError, Stopped
from descent.run.atomic import MARK

SHARED = "DESCENT_FOLDER"  # the run's folder, for the processes that Lightning starts


class RunFolder:
    """The files of a run, by their contents."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.config = self.path / "config.yaml"  # the run: resolved, complete, read back unchanged
        self.overrides = self.path / "overrides.yaml"  # what was typed
        self.environment = self.path / "environment.json"
        self.revision, self.changes = self.path / "git.txt", self.path / "git.diff"
        self.data = self.path / "data.txt"
        self.metrics = self.path / "metrics.csv"
        self.result = self.path / "result.json"
        self.log = self.path / "log.txt"  # the output of a sweep's run
        self.evaluation = self.path / "evaluation"
        self.checkpoints = self.path / "checkpoints"
        self.last, self.previous = self.checkpoints / "last.ckpt", self.checkpoints / "previous.ckpt"
        self.tracking = self.path / "wandb.txt"  # the id of the run in Weights & Biases
        self.lock = self.path / ".lock"

    def __str__(self) -> str:
        """Return the path as a user types it."""
        return os.path.relpath(self.path)

    def weights(self, name: str) -> Path:
        """Return the path of the checkpoint of this name, such as "best"."""
        return self.checkpoints / f"{name}.ckpt"

    def events(self) -> dict[str, Path]:
        """Return the files that TensorBoard reads, by their paths in the folder; they only grow."""
        files = sorted(self.path.rglob("events.out.tfevents.*"))
        return {file.relative_to(self.path).as_posix(): file for file in files}

    def advise(self) -> str:
        """Return a sentence on how to continue the run."""
        if not self.last.exists():
            return "There is no earlier checkpoint"
        return f"Continue with: {command('python src/train.py')} {shlex.quote(f'resume={self}')}"


def command(line: str) -> str:
    """Return a command as this shell runs it: `uv run tensorboard` if uv started this process."""
    return f"{'uv run ' if 'UV' in os.environ else ''}{line}"


@dataclass
class Run:
    """A run with its folder: what `train` needs to know in addition to its config."""

    folder: RunFolder  # claimed for this process
    resumed: bool = False  # it continues from the folder's contents
    files: Mapping[Path, str] = field(default_factory=dict)  # config and overrides, written once it trains
    allowed: set[str] | None = None  # names that its config may use; None for the user's own config
    changes: Mapping[str, Any] = field(default_factory=dict)  # values typed for a resumed run, by key
    choices: Mapping[str, str] = field(default_factory=dict)  # a word for each group, {"loss": "mae"}
    taken: bool = False  # the requested name belongs to another run
    trim: Callable[[], None] = lambda: None  # removes what was written after the checkpoint

    def rewind(self) -> Path | None:
        """Return the checkpoint to resume from, to which `trim` restores the folder; None for a new run."""
        if not self.resumed:
            return None
        from descent.run.rewind import rewind

        checkpoint, self.trim = rewind(self.folder)
        return checkpoint


@contextmanager
def claim(path: Path, resume: bool, write: Callable[[RunFolder], Mapping[Path, str]]) -> Iterator[RunFolder]:
    """Create a folder as `make` does, or resume in an existing one, and keep other processes out of it.

    A run that fails before it has a metric or a checkpoint removes what it created. Among several processes
    that share a run, the first one claims.

    Raises:
        ConfigError: the folder cannot be created, or the run in it has not ended.
        Stopped: the disk is full, or the folder is gone.
    """
    # imported here, so that finding and reading runs does not need them
    from filelock import FileLock, Timeout  # comes with torch
    from lightning.fabric.utilities.rank_zero import rank_zero_only

    if rank_zero_only.rank != 0:  # type: ignore[attr-defined]
        yield RunFolder(os.environ.get(SHARED, path))
        return
    made = [parent for parent in path.parents if not os.access(parent, os.F_OK)]
    folder = RunFolder(path) if resume else make(RunFolder(path), write)
    os.environ[SHARED] = str(folder.path)
    if signal.getsignal(signal.SIGINT) == signal.SIG_DFL:  # from here on there is something to undo
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        lock = FileLock(folder.lock, timeout=0).acquire()  # the system releases it however the process ends
    except OSError as error:
        expected = f"a folder that can be written to ({error.strerror})"
        if isinstance(error, Timeout):
            expected = "one that has ended; this one is active"
        raise ConfigError("resume", str(folder), expected=expected) from error
    there = folder.events()
    with lock:
        try:
            yield folder
        except BaseException as error:
            gone = not folder.path.is_dir()
            if resume and isinstance(error, ConfigError):  # it never started
                for name in folder.events().keys() - there.keys():
                    (folder.path / name).unlink()
            elif not resume and not gone:
                from descent.run.rewind import give_up

                give_up(folder, made)
            if isinstance(error, OSError) and (error.errno in FULL or gone):
                reason = f"{folder}: could not be written to ({error.strerror or error})"
                raise Stopped(f"{reason}. {folder.advise()}", code=1) from error
            raise


def make(folder: RunFolder, write: Callable[[RunFolder], Mapping[Path, str]]) -> RunFolder:
    """Create the first free one of `folder`, `folder-2`, …, which appears with all texts of `write`."""
    wanted, number = folder.path, 1
    part = wanted.with_name(f".{uuid4().hex}{MARK}")
    try:
        part.mkdir(parents=True)
        while True:
            if not folder.path.exists():
                for file, text in write(folder).items():
                    (part / file.name).write_text(text, encoding="utf-8")
                with suppress(OSError):  # another run took this name a moment ago
                    part.rename(folder.path)
                    return folder
            number += 1
            folder = RunFolder(wanted.with_name(f"{wanted.name}-{number}"))
    except OSError as error:
        expected = f"a folder that can be created ({error.strerror})"
        raise ConfigError("folder", str(folder.path), expected=expected) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def move(node: Any, old: str, new: str) -> Any:
    """Return nested values with the paths of a run's old folder replaced by those of its new one."""
    if isinstance(node, dict):
        return {move(name, old, new): move(value, old, new) for name, value in node.items()}
    if isinstance(node, list):
        return [move(value, old, new) for value in node]
    inside = isinstance(node, str) and (node == old or node.startswith(old + os.sep))
    return new + node[len(old) :] if inside else node
