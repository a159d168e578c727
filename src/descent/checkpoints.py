"""Checkpoint files: written whole, checked when read, and never able to run code."""

import errno
import zipfile
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from descent.errors import ConfigError, Stopped
from descent.files import sync_folder, write_atomically

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
NEW, LAST, PREVIOUS = "new.ckpt", "last.ckpt", "previous.ckpt"


class DamagedError(ConfigError):
    """A checkpoint that is torn, truncated, or no checkpoint at all."""


def write(checkpoint: dict[str, Any], path: Path) -> None:
    """Save tensors and plain values, atomically and synced.

    Raises:
        Stopped: the disk is full; the file that was there is intact.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        write_atomically(path, lambda file: torch.save(checkpoint, file))
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise Stopped(
            f"{path}: could not be written ({error.strerror}); the checkpoints before it are intact", code=1
        ) from error


def read(path: Path, map_location: Any = "cpu") -> dict[str, Any]:
    """Load a checkpoint, after its checksums have been compared; runs nothing that the file may hold.

    Raises:
        DamagedError: truncated, torn, changed since it was written, or of another format.
        ConfigError: there is no such file, or it holds more than tensors and plain values.
    """
    try:
        with zipfile.ZipFile(path) as archive:  # what torch.save writes; each record has a CRC-32
            damaged = archive.testzip()
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: expected a checkpoint; there is no such file") from error
    # a file that is cut or overwritten anywhere makes zipfile stumble in any of these ways
    except (zipfile.BadZipFile, OSError, ValueError, EOFError, NotImplementedError, RuntimeError) as error:
        raise DamagedError(f"{path}: expected a whole checkpoint; this file is damaged ({error})") from error
    if damaged is not None:
        raise DamagedError(f"{path}: expected a whole checkpoint; the checksum of {damaged} differs")
    try:
        return torch.load(path, map_location=map_location, weights_only=True)
    except UnpicklingError as error:
        reason = next((line for line in str(error).splitlines() if "GLOBAL" in line), str(error)).strip()
        raise ConfigError(
            f"{path}: refused, for it holds more than tensors and plain values, and nothing of it was run"
            f" ({reason.split('. ')[0]})"
        ) from error
    except (RuntimeError, KeyError, EOFError) as error:
        raise DamagedError(f"{path}: expected a checkpoint of torch ({first_line(error)})") from error


def newest_whole(folder: Path) -> tuple[Path, dict[str, Any]] | None:
    """The newest checkpoint of a folder that can be read, and what it holds; None where there is none.

    Names the damaged ones that it passes over.
    """
    for name in (NEW, LAST, PREVIOUS):
        path = folder / name
        if path.exists():
            try:
                return path, read(path)
            except DamagedError as error:
                print(f"{error}: the checkpoint before it is used", flush=True)
    return None


def rotate(folder: Path) -> None:
    """Make the new checkpoint the last one, and the last one the previous one.

    A kill between any two of these lines leaves at least two whole files, which `newest_whole` finds.
    """
    if (folder / LAST).exists():
        (folder / LAST).replace(folder / PREVIOUS)
    (folder / NEW).replace(folder / LAST)
    sync_folder(folder)


def first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
