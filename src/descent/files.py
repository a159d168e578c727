"""Files that are there whole or not at all, whatever happens while they are written."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any


def write_atomically(path: Path, write: Callable[[Any], object]) -> None:
    """Have `write` fill a new file beside `path`, sync it to the disk, and put it in the place of `path`.

    The old file stays whole until the new one is; a kill leaves at most a `*.part`, which nothing reads.

    Args:
        path: the file to make or replace.
        write: called with the new file, open for writing bytes.

    Raises:
        OSError: the disk is full, or the folder can not be written to; `path` is as it was.
    """
    # in the same folder: a rename across file systems would be a copy
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with Written(temporary) as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


class Written:
    """A file whose own error is raised in place of what a library makes of it.

    `torch.save` turns a full disk into a RuntimeError about its archive.
    """

    def __init__(self, path: Path) -> None:
        self.file = path.open("wb")
        self.error: OSError | None = None

    def __enter__(self) -> "Written":
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.file.close()
        except OSError as error:  # what was still buffered did not fit either
            self.error = self.error or error
        if self.error is not None:
            raise self.error

    def write(self, data: bytes) -> int:
        try:
            return self.file.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        self.file.flush()

    def fileno(self) -> int:
        return self.file.fileno()


def sync_folder(folder: Path) -> None:
    """Make renames in a folder last through a loss of power."""
    if os.name == "nt":
        return  # Windows opens no folders
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
