"""Restores a folder: a resumed run's to the newest undamaged checkpoint, a failed one's to nothing."""

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from lightning.fabric.utilities.rank_zero import rank_zero_only

from descent.errors import ConfigError, clean
from descent.run.atomic import MARK
from descent.run.checkpoints import DamagedError, read
from descent.run.folder import RunFolder, move
from descent.run.trust import list_texts


def rewind(folder: RunFolder) -> tuple[Path | None, Callable[[], None]]:
    """Return a folder's newest undamaged checkpoint, and a function that trims TensorBoard's files to it.

    Points after the checkpoint will be logged again, so they are cut off once the run has loaded it. The
    checkpoint is None if the run had not saved any: it starts afresh. Only the first process does this.
    """
    path, checkpoint = find_newest_whole(folder)
    if rank_zero_only.rank != 0:  # type: ignore[attr-defined]
        return path, lambda: None
    sizes, where = read_point(path, checkpoint, folder) if path else ({}, "")
    for part in folder.path.rglob(f".*{MARK}"):  # a kill cut short its writing
        if part.is_file():
            part.unlink()
    before = folder.events()

    def trim() -> None:
        for name, file in before.items():
            if size := sizes.get(name, 0):
                os.truncate(file, min(size, file.stat().st_size))
            else:
                file.unlink()

    if path is None:
        trim()
        folder.metrics.unlink(missing_ok=True)
        print(clean(f"Resumes {folder} from its start, because it has no checkpoint yet"), flush=True)
        return None, lambda: None
    if path == folder.previous:  # otherwise the next save would keep the damaged one, and not this
        folder.last.unlink(missing_ok=True)
    print(clean(f"Resumes {folder} from {where} ({path.name})"), flush=True)
    return path, trim


def find_newest_whole(folder: RunFolder) -> tuple[Path | None, dict[str, Any]]:
    """Return the newest readable checkpoint and its contents; None if there is none.

    Raises:
        ConfigError: there are checkpoints, and not one of them can be read.
    """
    paths = [path for path in (folder.last, folder.previous) if path.exists()]
    for path in paths:
        try:
            return path, read(path)
        except DamagedError as error:
            print(f"{error}; it is skipped", flush=True)
    if paths:
        raise ConfigError(str(folder.checkpoints), expected="a checkpoint that can be read")
    return None, {}


def read_point(path: Path, checkpoint: dict[str, Any], folder: RunFolder) -> tuple[dict[str, int], str]:
    """Return a checkpoint's record of the lengths of TensorBoard's files, by name, and its place in words.

    Raises:
        ConfigError: a run cannot resume from it, or it names files outside the folder.
    """
    try:
        sizes = {str(name): int(size) for name, size in checkpoint["parts"]["folder"].items()}
        callbacks = move(checkpoint["callbacks"], checkpoint["parts"]["at"], str(folder.path))
        where = f"epoch {checkpoint['epoch'] + 1}, step {checkpoint['global_step']}"
    except (LookupError, AttributeError, TypeError, ValueError) as error:
        expected = "a checkpoint of this template, from which a run can resume"
        raise ConfigError(str(path), expected=expected) from error
    for _, text in list_texts(callbacks):
        named = Path(text)
        if ".." in named.parts or (named.is_absolute() and not named.resolve().is_relative_to(folder.path)):
            raise ConfigError(str(path), expected=f"a checkpoint that names files of its run, not {text}")
    return sizes, where


def give_up(folder: RunFolder, made: Sequence[Path]) -> None:
    """Remove what a new run created, unless there is a metric or a checkpoint, and empty folders."""
    if folder.metrics.exists() or any(folder.path.rglob("*.ckpt")):
        return
    own = (folder.config, folder.overrides, folder.environment, folder.revision, folder.changes, folder.data)
    more = (file for name in ("hparams.yaml", f".*{MARK}") for file in folder.path.rglob(name))
    for file in (*own, folder.tracking, folder.lock, *folder.events().values(), *more):
        file.unlink(missing_ok=True)
    below = sorted((path for path in folder.path.rglob("*") if path.is_dir()), reverse=True)
    for empty in (*below, folder.path, *made):
        with suppress(OSError):  # it contains somebody else's file
            empty.rmdir()
