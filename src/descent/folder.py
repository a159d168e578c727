"""A run's folder: new, one run's alone, and gone again if nothing came of the run; or one that is resumed."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

from filelock import FileLock, Timeout  # comes with torch
from lightning.fabric.utilities.rank_zero import rank_zero_only

from descent.checkpoints import LAST, NEW, newest_whole, rotate
from descent.errors import ConfigError

LOCK = ".lock"


@contextmanager
def claimed(path: str, resume: bool) -> Iterator[Path]:
    """Make the folder, with a number after its name if that is taken; take it back if the run fails early.

    A run that ends with an error before it has a metric or a checkpoint to show leaves no folder. Of a
    distributed run, the first process makes it; Lightning passes that one's path on to the others.

    Args:
        path: the folder to make, with its parents; to be resumed, it is there.
        resume: go on in the folder as it is.

    Raises:
        ConfigError: the run in the folder has not ended.
    """
    folder = Path(path).expanduser().resolve()
    if rank_zero_only.rank != 0:  # type: ignore[attr-defined]
        yield folder
        return
    if not resume:
        folder = made(folder)
    lock = FileLock(folder / LOCK, timeout=0)  # the system lifts it when the process ends, however it ends
    try:
        lock.acquire()
    except Timeout as error:
        raise ConfigError(f"resume={path}: expected a run that has ended; this one is running") from error
    try:
        yield folder
    except BaseException:
        if not (folder / "metrics.csv").exists() and not any(folder.glob("checkpoints/*.ckpt")):
            shutil.rmtree(folder)
        raise
    finally:
        lock.release()


def made(folder: Path) -> Path:
    """Make a folder that is not there yet: this one, or the first free of `folder-2`, `folder-3`, …"""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        for number in count(1):
            numbered = folder.with_name(folder.name + (f"-{number}" if number > 1 else ""))
            if not numbered.exists():
                with suppress(FileExistsError):
                    numbered.mkdir()  # atomic: of two runs that want the same name, one fails
                    return numbered
    except OSError as error:
        raise ConfigError(
            f"folder={folder}: expected a folder that can be made ({error.strerror})"
        ) from error
    raise AssertionError("count() has no end")


def rewound(folder: Path) -> Path | None:
    """Bring a run's folder back to what it held at its newest whole checkpoint, and return that one's path.

    Points that TensorBoard got after the checkpoint are cut off, for they will come again. None where the
    run had come to no checkpoint: nothing of it is left, and it begins anew. The first process does this.
    """
    found = newest_whole(folder / "checkpoints")
    if rank_zero_only.rank != 0:  # type: ignore[attr-defined]
        return found and (found[0].with_name(LAST) if found[0].name == NEW else found[0])
    for part in folder.rglob("*.part"):  # of files that a kill cut short
        part.unlink()
    sizes = found[1]["resume"]["sizes"] if found else {}
    for path in event_files(folder):
        size = sizes.get(str(path.relative_to(folder)), 0)
        if size == 0:
            path.unlink()
        elif path.stat().st_size > size:
            with path.open("r+b") as file:
                file.truncate(size)
    if found is None:
        (folder / "metrics.csv").unlink(missing_ok=True)
        print(f"Resumes {os.path.relpath(folder)} from its start, for it has no checkpoint yet", flush=True)
        return None
    path, checkpoint = found
    if path.name == NEW:  # a kill came between writing it and giving it its name
        rotate(path.parent)
        path = path.with_name(LAST)
    where = f"epoch {checkpoint['epoch'] + 1}, step {checkpoint['global_step']}"
    print(f"Resumes {os.path.relpath(folder)} from {where} ({path.name})", flush=True)
    return path


def event_files(folder: Path) -> list[Path]:
    """What TensorBoard reads of a run: files that only ever grow."""
    return sorted(folder.glob("events.out.tfevents.*"))
