"""Restores a resumed run's folder to its contents at the newest undamaged checkpoint."""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.utilities.rank_zero import rank_zero_only

from descent.errors import ConfigError, clean
from descent.run.atomic import MARK
from descent.run.checkpoints import find_newest_whole, rotate
from descent.run.folder import RunFolder, move
from descent.run.trust import list_texts, read_text


def rewind(folder: RunFolder) -> tuple[Path | None, Callable[[], None]]:
    """Return a folder's newest undamaged checkpoint, and a function that trims TensorBoard's files to it.

    Points after the checkpoint will be logged again, so they are cut off once the run has loaded it. The
    checkpoint is None if the run had not saved any: it starts afresh. Only the first process does this.

    Raises:
        ConfigError: there are checkpoints, but none can be read; nothing was changed.
    """
    path, checkpoint = find_newest_whole((folder.new, folder.last, folder.previous)) or (None, {})
    # a kill may have come between writing the new one and renaming it
    newest = folder.last if path == folder.new else path
    if rank_zero_only.rank != 0:  # type: ignore[attr-defined]
        return newest, lambda: None
    sizes = read_sizes(path, checkpoint, folder) if path else {}
    for part in folder.path.rglob(f".*{MARK}"):  # of files that a kill cut short
        if part.is_file():
            part.unlink()
    trim = partial(cut, folder.events(), folder, sizes)
    if path is None or newest is None:
        trim()
        folder.metrics.unlink(missing_ok=True)
        print(clean(f"Resumes {folder} from its start, because it has no checkpoint yet"), flush=True)
        return None, lambda: None
    if path == folder.new:
        rotate(folder.new, folder.last, folder.previous)
    where = f"epoch {checkpoint['epoch'] + 1}, step {checkpoint['global_step']}"
    print(clean(f"Resumes {folder} from {where} ({newest.name}){name_other_torch(folder)}"), flush=True)
    return newest, trim


def cut(files: Sequence[Path], folder: RunFolder, sizes: Mapping[str, int]) -> None:
    """Cut files to the sizes recorded in a checkpoint, and remove those that it does not list."""
    for file in files:
        if size := sizes.get(file.relative_to(folder.path).as_posix(), 0):
            os.truncate(file, min(size, file.stat().st_size))
        else:
            file.unlink()


def name_other_torch(folder: RunFolder) -> str:
    """Return a line if the run began with a different torch version, whose results may differ."""
    try:
        before = str(json.loads(read_text(folder.environment))["packages"]["torch"])
    except (ConfigError, ValueError, LookupError, TypeError):  # no such file, or not one that a run wrote
        return ""
    same = before.partition("+")[0] == torch.__version__.partition("+")[0]
    return "" if same else f"\nThe run was begun with torch {before}, and goes on with {torch.__version__}"


def read_sizes(path: Path, checkpoint: Mapping[str, Any], folder: RunFolder) -> dict[str, int]:
    """Return the lengths of TensorBoard's files as recorded in a checkpoint, by their paths in the folder.

    Raises:
        ConfigError: a run cannot resume from it, or it names files outside the folder.
    """
    parts: Any = checkpoint.get("parts")
    sizes: Any = parts.get("folder") if isinstance(parts, dict) else None
    places = all(isinstance(checkpoint.get(name), int) for name in ("epoch", "global_step"))
    whole = isinstance(sizes, dict) and all(isinstance(n, int) and n >= 0 for n in sizes.values())
    if not places or not whole:
        raise ConfigError(str(path), expected="a checkpoint of this template, from which a run can go on")
    for _, text in list_texts(move(checkpoint.get("callbacks"), str(parts.get("at")), str(folder.path))):
        named = Path(text)
        if ".." in named.parts or (named.is_absolute() and not named.resolve().is_relative_to(folder.path)):
            raise ConfigError(str(path), expected=f"a checkpoint that names files of its run, not {text}")
    return sizes
