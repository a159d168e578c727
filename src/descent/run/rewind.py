"""Restores a folder: a resumed run's to the newest undamaged checkpoint, a failed one's to nothing."""

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_only

from descent.errors import ConfigError, clean
from descent.run.atomic import MARK
from descent.run.checkpoints import DamagedError, read
from descent.run.folder import RunFolder


def rewind(folder: RunFolder) -> tuple[Path | None, Callable[[], None]]:
    """Return a folder's newest undamaged checkpoint, and a function that restores the folder to it.

    Points after the checkpoint will be logged again, so they are removed once the run has loaded it. The
    checkpoint is None if the run had not saved any: it starts afresh.
    """
    path, checkpoint = find_newest_whole(folder)
    saved: Any = {name: checkpoint.get(name) for name in ("parts", "epoch", "global_step")}
    before = folder.events()  # without the file that the resumed run will open

    @rank_zero_only
    def trim() -> None:
        sizes = saved["parts"]["folder"] if path else {}
        for part in folder.path.rglob(f".*{MARK}"):  # a kill cut short its writing
            if part.is_file():
                part.unlink()
        for name, file in before.items():
            if size := sizes.get(name, 0):
                os.truncate(file, min(size, file.stat().st_size))
            else:
                file.unlink()
        if path is None:
            folder.metrics.unlink(missing_ok=True)
        elif path == folder.previous:  # otherwise the next save would keep the damaged one, and not this
            folder.last.unlink(missing_ok=True)
        where = "its start, because it has no checkpoint yet"
        if path is not None:
            where = f"epoch {saved['epoch'] + 1}, step {saved['global_step']} ({path.name})"
        print(clean(f"Resumes {folder} from {where}"), flush=True)

    if path is None:
        trim()
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
            rank_zero_only(print)(f"{error}; it is skipped", flush=True)
    if paths:
        raise ConfigError(str(folder.checkpoints), expected="a checkpoint that can be read")
    return None, {}


def give_up(folder: RunFolder, made: Sequence[Path]) -> None:
    """Remove what a new run created, with its parents, unless there is a metric or a checkpoint."""
    if folder.metrics.exists() or any(folder.path.rglob("*.ckpt")):
        return
    own = (folder.config, folder.overrides, folder.environment, folder.revision, folder.changes, folder.data)
    more = (file for name in ("hparams.yaml", f".*{MARK}") for file in folder.path.rglob(name))
    for file in (*own, folder.tracking, folder.lock, *folder.events().values(), *more):
        file.unlink(missing_ok=True)
    below = sorted(filter(Path.is_dir, folder.path.rglob("*")), reverse=True)
    for empty in (*below, folder.path, *made):
        with suppress(OSError):  # it contains somebody else's file
            empty.rmdir()
