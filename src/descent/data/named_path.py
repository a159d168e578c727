"""The user's files and folders, each with the config key that names it: errors start with both."""

from pathlib import Path
from typing import Literal, NamedTuple

from descent.errors import ConfigError, nearest


class NamedPath(NamedTuple):
    """A path as somebody typed it, such as `NamedPath("input", "new.csv")` for `input=new.csv`."""

    key: str
    path: str

    def error(self, expected: str) -> ConfigError:
        """Return an error that says what was expected of the path."""
        return ConfigError(self.key, self.path, expected=expected)

    def locate(self, kind: Literal["file", "folder"]) -> Path:
        """Return the path on disk; where a folder is expected, it may also be a file."""
        path = Path(self.path).expanduser()
        if path.is_dir() and kind == "file":
            raise self.error("a file, not a folder")
        if not path.exists():
            error, beside = self.error(f"a {kind} that exists"), path.parent.glob("*")
            error.nearest = nearest(path.name, [p.name for p in beside if p.is_file() or kind == "folder"])
            raise error
        if not (path.is_file() or path.is_dir()):  # opening a pipe would block
            raise self.error("a regular file")
        return path
