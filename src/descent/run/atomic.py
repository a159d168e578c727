"""Files that are there whole or not at all, whatever happens while they are written."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from descent.errors import ConfigError

MARK = ".part"  # ends the name of what is still being written


def require_inside(path: Path, folder: Path) -> Path:
    """Return a path that is about to be written, renamed or removed, resolved.

    Raises:
        ConfigError: it leads out of the folder, such as by a link or `..`, or is there and no regular file.
    """
    found = path.resolve()
    if not found.is_relative_to(folder.resolve()) or (path.exists() and not path.is_file()):
        raise ConfigError(str(path), expected=f"a file in {folder}; nothing outside of it is touched")
    return found


@contextmanager
def open_atomically(path: Path) -> Iterator[IO[bytes]]:
    """Open a stream of bytes to a new file beside `path`, which replaces `path` at the end, synced.

    The old file stays whole until the new one is; a kill leaves at most a `*.part`, which nothing reads.

    Raises:
        OSError: the disk is full, or the folder cannot be written to; `path` is as it was.
    """
    # in the same folder: a rename across file systems would be a copy
    part = path.with_name(f".{path.name[:100]}.{os.getpid()}{MARK}")
    part.unlink(missing_ok=True)  # never through a link that somebody has left there
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
    """Replace a file by a text in UTF-8, atomically."""
    with open_atomically(path) as stream:
        stream.write(text.encode())


class Stream:
    """A file whose own error is raised in place of what a library makes of it.

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
        except OSError as error:  # what was still buffered did not fit either
            self.error = self.error or error
        if self.error is not None:
            raise self.error


def sync_folder(folder: Path) -> None:
    """Make renames in a folder last through a loss of power."""
    if os.name == "nt":
        return  # Windows opens no folders
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
