"""Writes files that are either complete or absent, whatever happens during writing."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO
from uuid import uuid4

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
    """Open a byte stream to a new file next to `path`, which replaces `path` once it is complete and synced.

    `path` is a whole file at every moment, because a command may read it while a run trains, and stays
    unchanged if anything is raised, such as on a full disk. A kill leaves at most a `*.part`.
    """
    part = path.with_name(f".{uuid4().hex}{MARK}")  # next to it: a rename across file systems would be a copy
    try:
        with part.open("xb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    if os.name != "nt":  # Windows cannot open folders; elsewhere, the rename now survives a power loss
        descriptor = os.open(path.parent, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Replace a file atomically with a UTF-8 text."""
    with open_atomically(path) as stream:
        stream.write(text.encode())
