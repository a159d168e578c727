"""Checkpoint files: written atomically, checked on reading, never running code or leaving the folder."""

import os
import warnings
import zipfile
from collections.abc import Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO

from descent.errors import ConfigError, Stopped, first_line
from descent.run.atomic import open_atomically, require_inside, sync_folder


class DamagedError(ConfigError):
    """A checkpoint is torn, truncated, or not a checkpoint at all."""


class CheckpointFiles(TorchCheckpointIO):
    """Reads and writes checkpoints for Lightning, and writes or removes only files in the run's folder.

    Args:
        folder: the run's folder.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        require_inside(Path(path), self.folder)
        write(checkpoint, Path(path))

    def load_checkpoint(
        self, path: Any, map_location: Any = "cpu", weights_only: bool | None = True
    ) -> dict[str, Any]:
        return read(Path(path), map_location)

    def remove_checkpoint(self, path: Any) -> None:
        require_inside(Path(path), self.folder).unlink(missing_ok=True)


def write(checkpoint: dict[str, Any], path: Path) -> None:
    """Save tensors and plain values, atomically and synced.

    Raises:
        Stopped: the disk is full, or the folder is gone or read-only; the old file is intact.
    """
    try:
        path.parent.mkdir(exist_ok=True)
        with open_atomically(path) as stream:
            torch.save(checkpoint, stream)
    except OSError as error:
        intact = "; the checkpoints before it are intact" if path.parent.is_dir() else ""
        raise Stopped(f"{path}: could not be written ({error.strerror}){intact}", code=1) from error


def read(path: Path, map_location: Any = "cpu") -> dict[str, Any]:
    """Load a checkpoint after comparing its checksums; run no code that the file may contain.

    Raises:
        DamagedError: truncated, torn, changed since it was written, or of another format.
        ConfigError: there is no such file, or it contains more than tensors and plain values.
    """
    if not path.is_file():
        raise ConfigError(str(path), expected="a checkpoint; there is no such regular file")
    with path.open("rb") as file:  # opened once, because an active run may replace it meanwhile
        compare_checksums(file, path)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about tensors that no run writes
                checkpoint = torch.load(file, map_location=map_location, weights_only=True)
        except UnpicklingError as error:
            reason = next((line for line in str(error).splitlines() if "GLOBAL" in line), str(error)).strip()
            expected = f"tensors and plain values alone; nothing of it was run ({reason.split('. ')[0]})"
            raise ConfigError(str(path), expected=expected) from error
        except Exception as error:  # a crafted file can make torch raise anything
            raise DamagedError(str(path), expected=f"a checkpoint of torch ({first_line(error)})") from error
    if not isinstance(checkpoint, dict):
        raise DamagedError(str(path), expected=f"a checkpoint of a run, not a {type(checkpoint).__name__}")
    return checkpoint


def compare_checksums(file: Any, path: Path) -> None:
    """Read each record of the file once, and compare its CRC-32 with the archive's table."""
    try:
        with zipfile.ZipFile(file) as archive:
            damaged = archive.testzip()
    # a file that is cut or overwritten anywhere makes zipfile raise any of these
    except (zipfile.BadZipFile, OSError, ValueError, EOFError, NotImplementedError, RuntimeError) as error:
        expected = f"a whole checkpoint; this file is damaged ({first_line(error)})"
        raise DamagedError(str(path), expected=expected) from error
    if damaged is not None:
        raise DamagedError(str(path), expected=f"a whole checkpoint; the checksum of {damaged} differs")
    file.seek(0)


def find_newest_whole(paths: Sequence[Path]) -> tuple[Path, dict[str, Any]] | None:
    """Return the first readable checkpoint, and its contents; None if there is none.

    It names the damaged ones that it skips.

    Args:
        paths: where checkpoints may be, the newest first.

    Raises:
        ConfigError: there are checkpoints, and not one of them can be read.
    """
    damaged = []
    for path in paths:
        if not path.exists():
            continue
        try:
            checkpoint = read(path)
        except DamagedError as error:
            damaged.append(error)
            continue
        for passed_over in damaged:
            print(f"{passed_over}; the checkpoint before it is used", flush=True)
        return path, checkpoint
    if damaged:
        lines = "; ".join(map(str, damaged))
        raise ConfigError(str(paths[0].parent), expected=f"a checkpoint that can be read; {lines}")
    return None


def rotate(new: Path, last: Path, previous: Path) -> None:
    """Make the new checkpoint the last one, and the last one the previous one.

    A complete `last` exists at every moment, because a command may read it while a run trains.
    """
    if last.exists():
        spare = previous.with_suffix(".spare")
        spare.unlink(missing_ok=True)
        try:
            os.link(last, spare)
            spare.replace(previous)
        except OSError:  # a file system without hard links
            last.replace(previous)
    new.replace(last)
    sync_folder(new.parent)
