"""The file that a command writes: a new one, or one that may be replaced."""

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path
from typing import IO, Any

import numpy as np
import polars as pl
from tqdm import tqdm

from descent.callbacks.figures import without_nan
from descent.errors import ConfigError, require
from descent.run.atomic import open_atomically
from descent.run.folder import RunFolder


@contextmanager
def open_output(path: str, overwrite: bool, run: str | Path, input: str = "") -> Iterator[IO[bytes]]:
    """Open a stream to a file that is complete in the end, or absent.

    Raises:
        ConfigError: `output=path` is no file, or is the run's, the input, one to keep, or cannot be written.
    """
    file, folder = Path(path).expanduser(), RunFolder(Path(run).expanduser())
    require(file.parent.is_dir(), "output", path, f"a folder that exists, not {file.parent}")
    if file.exists():
        require(file.is_file(), "output", path, "a regular file, not a folder or a device")
        kept = [Path(input).expanduser(), *vars(folder).values(), *folder.checkpoints.glob("*")]
        own = any(other.is_file() and file.samefile(other) for other in kept)
        require(not own, "output", path, "a file other than the input and the run's own")
        require(overwrite, "output", path, "a file that does not exist, or overwrite=true")
    try:
        with open_atomically(file) as stream:
            yield stream
    except OSError as error:  # the disk is full, or the folder is read-only
        expected = f"a file that can be written ({error.strerror})"
        raise ConfigError("output", path, expected=expected) from error


def count_rows(path: str) -> int | None:
    """Return the number of rows that a file states, or of files in a folder; None for a CSV."""
    file = Path(path).expanduser()
    with suppress(Exception):  # the reader will report the error
        if file.is_dir():
            return sum(other.is_file() for other in file.rglob("*"))
        if file.suffix == ".parquet":
            return pl.scan_parquet(file).select(pl.len()).collect().item()
        if file.suffix == ".npy":
            return len(np.load(file, mmap_mode="r"))
    return None


def write(frames: Iterable[pl.DataFrame], stream: IO[bytes], suffix: str, total: int | None) -> int:
    """Write frames to a CSV one by one, or to Parquet at the end; return how many rows there were."""
    rows, kept = 0, []
    with tqdm(total=total, unit=" rows", disable=None) as bar:
        for frame in frames:
            if suffix == ".csv":
                stream.write(frame.write_csv(include_header=rows == 0).encode())
            else:
                kept.append(frame)
            rows += len(frame)
            bar.update(len(frame))
    if kept:
        content = BytesIO()  # because polars turns a full disk into an error of its own
        pl.concat(kept).write_parquet(content)
        stream.write(content.getbuffer())
    return rows


def to_json(values: Any) -> str:
    """Return plain values as JSON, null for NaN."""
    return printable(json.dumps(without_nan(values), indent=2, ensure_ascii=False) + "\n")


def printable(text: str) -> str:
    """Return a text that can be written as UTF-8, because names of files and folders may not be UTF-8."""
    return text.encode("utf-8", "backslashreplace").decode()
