"""Checkpoint files: written atomically, checked on reading, never running code or leaving the folder."""

import os
import re
import shutil
import zipfile
from io import BytesIO
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO

from descent.errors import ConfigError, first_line
from descent.run.atomic import open_atomically, require_inside
from descent.run.folder import RunFolder


class DamagedError(ConfigError):
    """A checkpoint is torn, truncated, or not a checkpoint at all."""


class CheckpointFiles(TorchCheckpointIO):
    """Reads and writes checkpoints for Lightning, and writes or removes only files in the run's folder."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.run = RunFolder(folder)

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Save tensors and plain values, atomically and synced; the old `last.ckpt` is kept as well."""
        file = require_inside(Path(path), self.run.path)
        file.parent.mkdir(exist_ok=True)
        content = BytesIO()  # because torch turns a full disk into a RuntimeError about its archive
        torch.save(checkpoint, content)
        if file == self.run.last.resolve() and file.exists():
            self.run.previous.unlink(missing_ok=True)
            try:
                os.link(file, self.run.previous)  # at once; `last.ckpt` stays where it is
            except OSError:  # a file system without hard links
                shutil.copyfile(file, self.run.previous)
        with open_atomically(file) as stream:
            stream.write(content.getbuffer())

    def load_checkpoint(
        self, path: Any, map_location: Any = "cpu", weights_only: bool | None = True
    ) -> dict[str, Any]:
        return read(Path(path), map_location)

    def remove_checkpoint(self, path: Any) -> None:
        require_inside(Path(path), self.run.path).unlink(missing_ok=True)


def read(path: Path, map_location: Any = "cpu") -> dict[str, Any]:
    """Load a checkpoint after comparing its checksums; run no code that the file may contain.

    Raises:
        DamagedError: truncated, torn, changed since it was written, or of another format.
        ConfigError: there is no such file, or it contains more than tensors and plain values.
    """
    if not path.is_file():
        raise ConfigError(str(path), expected="a checkpoint, but there is no such regular file")
    with path.open("rb") as file:  # opened once, because an active run may replace it meanwhile
        try:
            if damaged := zipfile.ZipFile(file).testzip():  # torch does not compare checksums
                raise ValueError(f"the checksum of {damaged} differs")
            file.seek(0)
            checkpoint = torch.load(file, map_location=map_location, weights_only=True)
            if not isinstance(checkpoint, dict):
                raise ValueError(f"it contains a {type(checkpoint).__name__}")
            return checkpoint
        except UnpicklingError as error:
            found = re.search(r"GLOBAL (\S+)", str(error))
            reason = found[0] if found else first_line(error)
            expected = f"only tensors and plain values; nothing in it was run ({reason})"
            raise ConfigError(str(path), expected=expected) from error
        except Exception as error:  # a file that is cut or changed makes zipfile and torch raise anything
            expected = f"a whole checkpoint of a run; this file is damaged ({first_line(error)})"
            raise DamagedError(str(path), expected=expected) from error
