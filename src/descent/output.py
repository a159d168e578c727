"""A file that is there whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from descent.errors import ConfigError


def free(path: str, overwrite: bool) -> Path:
    """The path of a file to write.

    Raises:
        ConfigError: it exists and `overwrite` is False, it is a folder, or its folder does not exist.
    """
    file = Path(path).expanduser()
    if file.is_dir():
        raise ConfigError(f"output={path}: expected a file, not a folder")
    if file.exists() and not overwrite:
        raise ConfigError(f"output={path}: expected a file that does not exist, or overwrite=true")
    if not file.parent.is_dir():
        raise ConfigError(f"output={path}: expected a folder that exists, not {file.parent}")
    return file


@contextmanager
def written(file: Path) -> Iterator[IO[bytes]]:
    """A stream to a temporary file beside `file`, which becomes it at the end, synced; gone on an error."""
    part = file.with_name(f".{file.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        part.replace(file)
    finally:
        part.unlink(missing_ok=True)
