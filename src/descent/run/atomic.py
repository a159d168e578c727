"""Writes files that are either complete or absent, whatever happens during writing."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from descent.errors import ConfigError

MARK = ".part"  # ends the name of a file that is still being written


def require_inside(path: Path, folder: Path) -> Path:
    """Return a path that is about to be written, renamed or removed, resolved.

    Raises:
        ConfigError: it leads out of the folder, such as by a link or `..`, or it is not a regular file.
    """
    found = path.resolve()
    if not found.is_relative_to(folder.resolve()) or (path.exists() and not path.is_file()):
        raise ConfigError(str(path), expected=f"a file in {folder}; nothing outside of it is touched")
    return found


@contextmanager
def open_atomically(path: Path) -> Iterator[IO[bytes]]:
    """Open a byte stream to a new file next to `path`, which is synced and replaces `path` at the end.

    The old file stays intact until the new one is complete; a kill leaves at most a `*.part`, which nothing
    reads.

    Raises:
        OSError: the disk is full, or the folder cannot be written to; `path` is unchanged.
    """
    # in the same folder, because a rename across file systems would be a copy
    part = path.with_name(f".{path.name[:100]}.{os.getpid()}{MARK}")
    part.unlink(missing_ok=True)  # never through a link that somebody left there
    stream = Stream(part)
    try:
        try:
            yield stream  # type: ignore[misc]
            stream.flush()
            os.fsync(stream.fileno())
        finally:
            stream.close()
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def write_text(path: Path, text: str) -> None:
    """Replace a file atomically with a UTF-8 text."""
    with open_atomically(path) as stream:
        stream.write(text.encode())


class Stream:
    """A file whose original error is raised instead of the library's version of it.

    `torch.save` turns a full disk into a RuntimeError about its archive.
    """

    def __init__(self, path: Path) -> None:
        self.file = path.open("xb")
        self.error: OSError | None = None

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

    def close(self) -> None:
        try:
            self.file.close()
        except OSError as error:  # the remaining buffer did not fit either
            self.error = self.error or error
        if self.error is not None:
            raise self.error


def sync_folder(folder: Path) -> None:
    """Make renames in a folder survive a power loss."""
    if os.name == "nt":
        return  # Windows cannot open folders
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
