"""The file that a command is asked to write: a new one, or one that may be replaced."""

import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from descent.errors import ConfigError, require
from descent.run.atomic import open_atomically


def require_free(path: str, overwrite: bool, input: str | None = None) -> Path:
    """Return the path of a file to write.

    Args:
        path: as it was typed, `output=path`.
        overwrite: whether a regular file that exists may be replaced.
        input: what is read meanwhile, if that is a file.

    Raises:
        ConfigError: a file exists and `overwrite` is False; it is a folder, link, pipe or device, or the
            input; its folder does not exist, or it can have no such name.
    """
    file = Path(path).expanduser()
    try:
        mode = file.lstat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        require(file.parent.is_dir(), "output", path, f"a folder that exists, not {file.parent}")
        return file
    except OSError as error:
        raise not_writable(path, error) from error
    require(not stat.S_ISDIR(mode), "output", path, "a file, not a folder")
    require(stat.S_ISREG(mode), "output", path, "a regular file, not a link, a pipe or a device")
    if input is not None and Path(input).expanduser().exists():
        same = file.samefile(Path(input).expanduser())
        require(not same, "output", path, "another file than the input")
    require(overwrite, "output", path, "a file that does not exist, or overwrite=true")
    return file


@contextmanager
def open_output(path: str) -> Iterator[IO[bytes]]:
    """Open a stream to a file that `require_free` found free; it is there whole at the end, or not at all.

    Raises:
        ConfigError: the disk is full, or the folder can not be written to.
    """
    try:
        with open_atomically(Path(path).expanduser()) as stream:
            yield stream
    except OSError as error:
        raise not_writable(path, error) from error


def not_writable(path: str, error: OSError) -> ConfigError:
    return ConfigError("output", path, expected=f"a file that can be written ({error.strerror})")
