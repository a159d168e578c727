"""The file that a command is to write: a new one, or one that may be replaced."""

from __future__ import annotations

import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np

from descent.errors import ConfigError, require
from descent.run.atomic import open_atomically
from descent.run.folder import RunFolder

if TYPE_CHECKING:  # half a second of import that only those who write files pay for
    import polars as pl


def require_free(path: str, overwrite: bool, run: str, input: str | None = None) -> None:
    """Raise a `ConfigError` that says why a file cannot be written, unless it can.

    Args:
        path: as it was typed, `output=path`.
        overwrite: whether a regular file that exists may be replaced.
        run: the folder of the run, whose own files are never replaced.
        input: the file that is read meanwhile, if any.
    """
    file, folder = Path(path).expanduser(), RunFolder(Path(run).expanduser())
    try:
        mode = file.lstat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        require(file.parent.is_dir(), "output", path, f"a folder that exists, not {file.parent}")
        return
    except OSError as error:
        raise not_writable(path, error) from error
    require(not stat.S_ISDIR(mode), "output", path, "a file, not a folder")
    require(stat.S_ISREG(mode), "output", path, "a regular file, not a link, a pipe or a device")
    kept = (*vars(folder).values(), *folder.checkpoints.glob("*"), *folder.events())
    own = any(other.exists() and file.samefile(other) for other in kept)
    require(not own, "output", path, "another file than those of the run")
    if input is not None and Path(input).expanduser().exists():
        same = file.samefile(Path(input).expanduser())
        require(not same, "output", path, "another file than the input")
    require(overwrite, "output", path, "a file that does not exist, or overwrite=true")


@contextmanager
def open_output(path: str) -> Iterator[IO[bytes]]:
    """Open a stream to a file that `require_free` allowed; at the end the file is there whole or not at all.

    Raises:
        ConfigError: the disk is full, or the folder cannot be written to.
    """
    try:
        with open_atomically(Path(path).expanduser()) as stream:
            yield stream
    except OSError as error:
        raise not_writable(path, error) from error


def count_rows(path: str) -> int | None:
    """Return the rows of a file that states their number, or the files of a folder; None for text."""
    file = Path(path).expanduser()
    if file.is_dir():
        return sum(1 for other in file.rglob("*") if other.is_file())
    try:
        if file.is_file() and file.suffix == ".npy":
            return len(np.load(file, mmap_mode="r"))
        if file.is_file() and file.suffix == ".parquet":
            import polars as pl

            return pl.scan_parquet(file).select(pl.len()).collect().item()
    except Exception:  # the reader reports what is wrong with it
        return None
    return None


def write_csv(blocks: Iterable[pl.DataFrame], stream: IO[bytes]) -> Iterator[pl.DataFrame]:
    """Write frames one after another as a CSV, and yield each frame that is written."""
    for number, block in enumerate(blocks):
        block.write_csv(stream, include_header=number == 0)
        yield block


def write_parquet(blocks: Iterable[pl.DataFrame], stream: IO[bytes]) -> Iterator[pl.DataFrame]:
    """Yield each frame, and write all at the end as one Parquet file, whose format is by columns."""
    import polars as pl

    kept = []
    for block in blocks:
        kept.append(block)
        yield block
    pl.concat(kept).write_parquet(stream)


SUFFIXES = {".csv": write_csv, ".parquet": write_parquet}


def not_writable(path: str, error: OSError) -> ConfigError:
    return ConfigError("output", path, expected=f"a file that can be written ({error.strerror})")
