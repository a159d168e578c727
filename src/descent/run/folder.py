"""A run's folder: the names of its files, and how it is claimed, found, read and given up again."""

import errno
import os
import shlex
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any
from uuid import uuid4

import yaml

from descent.errors import ConfigError, Stopped, first_line
from descent.run.atomic import MARK, open_atomically

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
SHARED = "DESCENT_FOLDER"  # where the processes that Lightning starts for a run find its folder
BYTES = 1 << 26  # of the largest file of text that is read
YAML_BYTES = 1 << 20  # the same of YAML, of which a config is some thousand bytes
YAML_VALUES = 50_000  # in a file of YAML, at most
YAML_DIGITS = 100  # of a number in it, at most


class RunFolder:
    """The files of a run, by what is in them.

    Args:
        path: of the folder.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.made: list[Path] = []  # it and those above it, as far as this process made them for a new run
        self.before: dict[Path, bytes] | None = None  # what a resumed run found, until it has more to show
        self.config = self.path / "config.yaml"  # composed and resolved
        self.overrides = self.path / "overrides.yaml"  # the words of the command line
        self.environment = self.path / "environment.json"
        self.revision, self.changes = self.path / "git.txt", self.path / "git.diff"
        self.data = self.path / "data.txt"
        self.metrics = self.path / "metrics.csv"
        self.result = self.path / "result.json"
        self.log = self.path / "log.txt"  # what a run of a sweep printed
        self.evaluation = self.path / "evaluation"
        self.checkpoints = self.path / "checkpoints"
        self.last, self.previous = self.checkpoints / "last.ckpt", self.checkpoints / "previous.ckpt"
        self.new = self.checkpoints / "new.ckpt"  # about to become the last one
        self.lock = self.path / ".lock"

    def __str__(self) -> str:
        """Return the path as a person types it."""
        return os.path.relpath(self.path)

    def weights(self, name: str) -> Path:
        """Return the path of the checkpoint of this name, such as "best"."""
        return self.checkpoints / f"{name}.ckpt"

    def events(self) -> list[Path]:
        """Return the files that TensorBoard reads, at any depth; they only ever grow."""
        return sorted(self.path.rglob("events.out.tfevents.*"))

    def curves(self) -> list[Path]:
        """Return the files that grow as a run goes on, and what loggers write beside them."""
        lines, settings = self.path.rglob(self.metrics.name), self.path.rglob("hparams.yaml")
        return [*lines, *settings, *self.events()]

    def advise(self) -> str:
        """Say how to go on with the run."""
        if not self.last.exists():
            return "There is no checkpoint before it"
        return f"Go on with: python src/train.py {shlex.quote(f'resume={self}')}"

    def worth_keeping(self) -> bool:
        """Whether there is something to show or to go on from."""
        return self.metrics.exists() or any(self.path.rglob("*.ckpt"))

    def files(self) -> list[Path]:
        """Everything that a run may have made before it had something worth keeping."""
        own = (
            self.config, self.overrides, self.environment, self.revision, self.changes, self.data,
            self.result, self.lock,
        )  # fmt: skip
        return [*own, *self.curves(), *self.path.rglob(f".*{MARK}")]


@dataclass
class Run:
    """A run that has its folder: what `train` needs to know beside its config, in plain values.

    Attributes:
        folder: claimed for this process.
        wanted: the folder that was asked for, which may have been taken.
        resumed: whether it goes on with what the folder holds.
        files: the texts of its config and its words. A resumed run writes them once it trains.
        changes: values that were typed for a resumed run, by key; the optimizer's win over its state.
        hyperparameters: what runs are compared by, flat, the most telling ones first.
        monitors: each field of the config that names a metric to look at, by key.
        source: a folder of the repository whose revision is recorded.
    """

    folder: RunFolder
    wanted: RunFolder
    resumed: bool
    files: Mapping[Path, str]
    changes: Mapping[str, Any]
    hyperparameters: dict[str, Any]
    monitors: dict[str, str]
    source: Path


@contextmanager
def claim(path: str, resume: bool, files: Callable[[RunFolder], Mapping[Path, str]]) -> Iterator[RunFolder]:
    """Make a folder, with a number after its name if that is taken, and keep other processes out of it.

    The folder appears with its first files in it, so that a run that is killed a moment later can be
    resumed. A run that fails before it has a metric or a checkpoint to show takes back what it made; files
    that it did not make, and folders that were there before, are never removed. Of several processes that
    share a run, the first one claims.

    Args:
        path: the folder to make, with its parents; to be resumed, it is there.
        resume: go on in the folder as it is.
        files: the first files' texts.

    Raises:
        ConfigError: the folder cannot be made, or the run in it has not ended.
        Stopped: a file of the folder can no longer be written.
    """
    # imported here, so that finding and reading runs needs neither
    from filelock import FileLock, Timeout  # comes with torch
    from lightning.fabric.utilities.rank_zero import rank_zero_only

    folder = RunFolder(Path(path).expanduser().resolve())
    if rank_zero_only.rank != 0:  # type: ignore[attr-defined]
        yield RunFolder(os.environ.get(SHARED, folder.path))
        return
    parents = [parent for parent in folder.path.parents if not parent.exists()]
    if not resume:
        folder = make(folder, files)
        folder.made = [folder.path, *parents]
    os.environ[SHARED] = str(folder.path)
    lock = FileLock(folder.lock, timeout=0)  # the system lifts it when the process ends, however it ends
    try:
        lock.acquire()
    except Timeout as error:
        raise ConfigError("resume", path, expected="a run that has ended; this one is running") from error
    except OSError as error:
        expected = f"a folder that can be written to ({error.strerror})"
        raise ConfigError("resume", path, expected=expected) from error
    try:
        yield folder
    except BaseException as error:
        gone = not folder.path.is_dir()
        give_up(folder)
        if isinstance(error, OSError) and (error.errno in FULL or gone):
            reason = f"{folder}: could not be written to ({error.strerror or error})"
            raise Stopped(f"{reason}. {folder.advise()}", code=1) from error
        raise
    finally:
        lock.release()


def make(folder: RunFolder, files: Callable[[RunFolder], Mapping[Path, str]]) -> RunFolder:
    """Make the first free one of `folder`, `folder-2`, `folder-3`, … with its files in it, all at once."""
    parent, name = folder.path.parent, folder.path.name
    part = parent / f".{name[:100]}.{uuid4().hex[:8]}{MARK}"
    try:
        part.mkdir(parents=True)
        for number in count(1):
            folder = RunFolder(parent / (f"{name}-{number}" if number > 1 else name))
            if folder.path.exists():
                continue
            for file, text in files(folder).items():
                (part / file.name).write_text(text, encoding="utf-8")
            with suppress(OSError):  # another run took this name a moment ago
                part.rename(folder.path)
                return folder
    except OSError as error:
        expected = f"a folder that can be made ({error.strerror})"
        raise ConfigError("folder", str(folder.path), expected=expected) from error
    finally:
        if part.exists():
            for file in part.iterdir():
                file.unlink()
            part.rmdir()
    raise AssertionError("count() has no end")


def give_up(folder: RunFolder) -> None:
    """Remove what a new run made, unless it has something to show, and then the folders that are empty.

    A resumed run that has nothing more to show leaves the curves as it found them.
    """
    if folder.before is not None:
        put_back(folder, folder.before)
    if not folder.made or not folder.path.is_dir() or folder.worth_keeping():
        return
    for file in folder.files():
        file.unlink(missing_ok=True)
    below = sorted((path for path in folder.path.rglob("*") if path.is_dir()), reverse=True)
    for empty in (*below, *folder.made):
        with suppress(OSError):  # somebody else's file is in it
            empty.rmdir()


def put_back(folder: RunFolder, before: Mapping[Path, bytes]) -> None:
    """Make a run's curves what they were before."""
    with suppress(OSError):  # a disk may be full, or the folder gone; the points come again with the run
        for path in folder.curves():
            if path not in before:
                path.unlink()
        for path, content in before.items():
            if not path.exists() or path.read_bytes() != content:
                with open_atomically(path) as stream:
                    stream.write(content)


def rewind(folder: RunFolder) -> Path | None:
    """Bring a folder back to what it held at its newest whole checkpoint, and return that one's path.

    Points that TensorBoard got after the checkpoint are cut off, for they will come again. None where the
    run had come to no checkpoint: nothing of it is left, and it begins anew. Of several processes, the
    first one does this.

    Raises:
        ConfigError: there are checkpoints, and not one of them can be read; nothing was changed.
    """
    from lightning.fabric.utilities.rank_zero import rank_zero_only

    from descent.run.checkpoints import find_newest_whole, rotate

    found = find_newest_whole((folder.new, folder.last, folder.previous))
    newest = found[0] if found else None
    if newest == folder.new:  # a kill came between writing it and giving it its name
        newest = folder.last
    if rank_zero_only.rank != 0:  # type: ignore[attr-defined]
        return newest
    sizes = read_sizes(*found) if found else {}
    folder.before = {path: path.read_bytes() for path in folder.curves()}
    for part in folder.path.rglob(f".*{MARK}"):  # of files that a kill cut short
        part.unlink()
    for path in folder.events():
        size = sizes.get(path.relative_to(folder.path).as_posix(), 0)
        if size == 0:
            path.unlink()
        elif path.stat().st_size > size:
            with path.open("r+b") as file:
                file.truncate(size)
    if found is None or newest is None:
        folder.metrics.unlink(missing_ok=True)
        print(f"Resumes {folder} from its start, for it has no checkpoint yet", flush=True)
        return None
    if found[0] == folder.new:
        rotate(folder.new, folder.last, folder.previous)
    where = f"epoch {found[1]['epoch'] + 1}, step {found[1]['global_step']}"
    print(f"Resumes {folder} from {where} ({newest.name})", flush=True)
    return newest


def read_sizes(path: Path, checkpoint: Mapping[str, Any]) -> dict[str, int]:
    """Return how long a checkpoint says that TensorBoard's files were, by their paths in the folder.

    Raises:
        ConfigError: it is none from which a run can go on.
    """
    parts = checkpoint.get("parts")
    sizes = parts.get("folder") if isinstance(parts, dict) else None
    places = all(isinstance(checkpoint.get(name), int) for name in ("epoch", "global_step"))
    if not places or not isinstance(sizes, dict) or not all(isinstance(n, int) for n in sizes.values()):
        raise ConfigError(str(path), expected="a checkpoint of this template, from which a run can go on")
    return sizes


def event_sizes(folder: RunFolder) -> dict[str, int]:
    """Return how long each of TensorBoard's files is, by its path in the folder; `rewind` cuts it there."""
    return {p.relative_to(folder.path).as_posix(): p.stat().st_size for p in folder.events()}


def find_runs(parent: Path) -> list[RunFolder]:
    """Return the runs in a folder, at any depth, the newest first."""
    files = [path for path in parent.rglob(RunFolder(parent).config.name) if path.is_file()]
    files.sort(key=lambda path: path.stat().st_mtime_ns, reverse=True)
    return [RunFolder(path.parent) for path in files]


# ---- what a folder says is data, and may have been crafted -------------------------------------------------


class PlainLoader(yaml.SafeLoader):
    """YAML that is read within seconds: of some length, and without aliases.

    A few lines of aliases can stand for more than a memory holds.
    """

    values = 0  # so far

    def compose_node(self, parent: Any, index: Any) -> Any:
        self.values += 1
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("it has an alias, which no run writes")
        if self.values > YAML_VALUES:
            raise yaml.YAMLError("it has more values than any run writes")
        node = super().compose_node(parent, index)
        assert node is not None
        if not node.tag.endswith((":str", ":map", ":seq")) and len(node.value) > YAML_DIGITS:
            raise yaml.YAMLError("it has a number that is longer than any run writes")
        return node


def read_text(path: Path, most: int = BYTES) -> str:
    """Return the text of a file that a run wrote.

    Raises:
        ConfigError: no regular file, for a pipe would be waited for; or one of more than so many bytes.
    """
    if not path.is_file():
        raise ConfigError(str(path), expected="a file that a run wrote; there is no regular file")
    if path.stat().st_size > most:
        raise ConfigError(str(path), expected="a file that a run wrote; this one is too large")
    return path.read_text(encoding="utf-8")


def read_yaml(path: Path) -> Any:
    """Return the plain values of a YAML file that a run wrote.

    Raises:
        ConfigError: no regular file, a large one, or one that is not YAML without aliases.
    """
    try:
        return yaml.load(read_text(path, YAML_BYTES), PlainLoader)
    except ConfigError:
        raise
    except Exception as error:  # a crafted file makes yaml stumble in ways of its own
        raise ConfigError(str(path), expected=f"a file that a run wrote ({first_line(error)})") from error


@dataclass
class SavedRun:
    """A run as it was read: its config, and one of its checkpoints, both plain values and tensors."""

    config: dict[str, Any]
    checkpoint: dict[str, Any]

    @property
    def data(self) -> dict[str, Any]:
        """Return what `DataModule.describe` said of the data, and the network's "activation"."""
        return self.checkpoint["data"]

    def weights(self, of: str) -> dict[str, Any]:
        """Return the weights of "model", "criterion" or "scaling", by their own names."""
        state = self.checkpoint["state_dict"]
        return {name.removeprefix(f"{of}."): t for name, t in state.items() if name.startswith(f"{of}.")}


DATA = {  # what a checkpoint says of the data, and of which type each value is
    "task": str,
    "input_shape": list,
    "outputs": int,
    "names": list,
    "class_counts": list,
    "reader": dict,
    "activation": str,
}
PARTS = ("data", "loss", "model", "module")  # of a config


def read_run(path: str | Path, weights: str, key: str = "run") -> SavedRun:
    """Return a run's config and one of its checkpoints, and check what everything else relies on.

    Args:
        path: of the folder.
        weights: "best" or "last".
        key: of the config that names the folder, for errors.

    Raises:
        ConfigError: no run's folder, one without that checkpoint, or files of something else.
    """
    from descent.run.checkpoints import read

    folder = RunFolder(Path(path).expanduser())
    if not folder.config.exists():
        siblings = [p.name for p in folder.path.parent.glob("*") if p.is_dir()]
        expected = f"a run's folder, with {folder.config.name} and {folder.checkpoints.name}/"
        raise ConfigError(key, str(path), expected=expected, choices=siblings)
    file = folder.weights(weights)
    if not file.exists():
        there = ", ".join(sorted(p.stem for p in folder.checkpoints.glob("*.ckpt"))) or "no checkpoint"
        raise ConfigError(key, str(path), expected=f"{file}; there is {there}")
    config, checkpoint = read_yaml(folder.config), read(file)
    if not isinstance(config, dict) or not all(isinstance(config.get(part), dict) for part in PARTS):
        raise ConfigError(key, str(path), expected=f"a config of this template; {folder.config.name} is none")
    if (wrong := find_fault(checkpoint)) is not None:
        expected = f"a checkpoint of this template; {file.name} is of something else ({wrong})"
        raise ConfigError(key, str(path), expected=expected)
    return SavedRun(config, checkpoint)


def is_plain_tensor(value: object) -> bool:
    """Whether something is a tensor that has its numbers, real ones, one after another."""
    import torch

    if not isinstance(value, torch.Tensor) or value.is_meta or value.is_complex():
        return False
    return value.layout == torch.strided


def find_fault(checkpoint: dict[str, Any]) -> str | None:
    """Say what a checkpoint lacks of what a run's checkpoint holds; return None if it is whole."""
    state, data = checkpoint.get("state_dict"), checkpoint.get("data")
    if not isinstance(state, dict) or not all(is_plain_tensor(t) for t in state.values()):
        return "its weights are not tensors"
    if not isinstance(data, dict):
        return "it does not say what its data was"
    for name, kind in DATA.items():
        if not isinstance(data.get(name), kind):
            return f"its data's {name} is no {kind.__name__}"
    if not is_plain_tensor(data.get("inputs")):
        return "its data's inputs are no tensor"
    if not all(isinstance(size, int) and size >= 1 for size in data["input_shape"]):
        return "its data's input_shape is no list of sizes"
    if not all(isinstance(name, str) for name in data["names"]) or len(data["names"]) != data["outputs"]:
        return "its data's names are not one for each output"
    if not all(isinstance(count, int) for count in data["class_counts"]):
        return "its data's class_counts are no numbers"
    scaling = ("input_mean", "input_std", "target_mean", "target_std")
    missing = [name for name in scaling if f"scaling.{name}" not in state]
    return f"it has no scaling.{missing[0]}" if missing else None
