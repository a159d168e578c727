"""Checkpoint files: written whole, checked when read, and never able to run code."""

import warnings
import zipfile
from collections.abc import Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from descent.errors import ConfigError, Stopped, first_line
from descent.run.atomic import open_atomically, sync_folder


class DamagedError(ConfigError):
    """A checkpoint that is torn, truncated, or no checkpoint at all."""


def write(checkpoint: dict[str, Any], path: Path) -> None:
    """Save tensors and plain values, atomically and synced.

    Raises:
        Stopped: the disk is full, or the folder is gone or read-only; the file that was there is intact.
    """
    try:
        path.parent.mkdir(exist_ok=True)
        with open_atomically(path) as stream:
            torch.save(checkpoint, stream)
    except OSError as error:
        intact = "; the checkpoints before it are intact" if path.parent.is_dir() else ""
        raise Stopped(f"{path}: could not be written ({error.strerror}){intact}", code=1) from error


def read(path: Path, map_location: Any = "cpu") -> dict[str, Any]:
    """Load a checkpoint, after its checksums have been compared; runs nothing that the file may hold.

    What is read is bounded by the file's own size: `torch.save` compresses nothing.

    Raises:
        DamagedError: truncated, torn, changed since it was written, or of another format.
        ConfigError: there is no such file, or it holds more than tensors and plain values.
    """
    compare_checksums(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about tensors that no run writes
            checkpoint = torch.load(path, map_location=map_location, weights_only=True)
    except UnpicklingError as error:
        reason = next((line for line in str(error).splitlines() if "GLOBAL" in line), str(error)).strip()
        raise ConfigError(
            str(path),
            expected=f"tensors and plain values alone, and nothing of it was run ({reason.split('. ')[0]})",
        ) from error
    # a crafted file makes torch stumble in any of these ways
    except (RuntimeError, LookupError, EOFError, ValueError, TypeError, AttributeError, MemoryError) as error:
        raise DamagedError(str(path), expected=f"a checkpoint of torch ({first_line(error)})") from error
    require_plain(checkpoint, path, path.stat().st_size)
    return checkpoint


def compare_checksums(path: Path) -> None:
    """Read each record of the file once, whose CRC-32 has to be that of the archive's table."""
    if not path.is_file():
        there = "it is not a regular file" if path.exists() else "there is no such file"
        raise ConfigError(str(path), expected=f"a checkpoint; {there}")
    try:
        with zipfile.ZipFile(path) as archive:
            records = archive.infolist()
            other = any(record.compress_type != zipfile.ZIP_STORED for record in records)
            other = other or any(record.filename.endswith("/constants.pkl") for record in records)
            # a bytearray is as large as it is told to be; no run's state has one
            pickles = [record for record in records if record.filename.endswith("/data.pkl")]
            other = other or any(b"\nbytearray\n" in archive.read(record) for record in pickles)
            damaged = None if other else archive.testzip()
    # a file that is cut or overwritten anywhere makes zipfile stumble in any of these ways
    except (zipfile.BadZipFile, OSError, ValueError, EOFError, NotImplementedError, RuntimeError) as error:
        reason = first_line(error)
        raise DamagedError(
            str(path), expected=f"a whole checkpoint; this file is damaged ({reason})"
        ) from error
    if other:
        raise DamagedError(str(path), expected="what torch.save writes; this is an archive of another kind")
    if damaged is not None:
        raise DamagedError(str(path), expected=f"a whole checkpoint; the checksum of {damaged} differs")


def require_plain(checkpoint: Any, path: Path, size: int) -> None:
    """Refuse a checkpoint that is no dictionary, or with a tensor of more numbers than its file can hold."""
    if not isinstance(checkpoint, dict):
        kind = type(checkpoint).__name__
        raise DamagedError(str(path), expected=f"a checkpoint of a run; it holds a {kind}")
    rest: list[Any] = [checkpoint]
    seen: set[int] = set()  # a crafted file may hold a list that holds itself
    while rest:
        part = rest.pop()
        if isinstance(part, dict | list | tuple | set) and id(part) not in seen:
            seen.add(id(part))
            rest += part.values() if isinstance(part, dict) else part
        elif isinstance(part, torch.Tensor) and part.numel() * part.element_size() > size:
            expected = f"tensors that fit in the file; one has {part.numel():,} numbers"
            raise DamagedError(str(path), expected=expected)


def find_newest_whole(paths: Sequence[Path]) -> tuple[Path, dict[str, Any]] | None:
    """Return the first checkpoint that can be read, and what it holds; None if there is none.

    Names the damaged ones that it passes over.

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

    A kill between any two of these lines leaves at least two whole files, which `find_newest_whole` finds.
    """
    if last.exists():
        last.replace(previous)
    new.replace(last)
    sync_folder(new.parent)
