"""A command does not need its terminal: if the terminal goes away, the command goes on."""

import os
import sys
from typing import Any, TextIO


class Terminal:
    """A stream whose reader may go away, as in `python src/train.py | head -1`, or whose disk may be full.

    Args:
        stream: standard output or error.
    """

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        """Write to the stream, or to nowhere."""
        try:
            return self.stream.write(text)
        except OSError:
            return self._leave(text)

    def flush(self) -> None:
        """Flush the stream, if it is there."""
        try:
            self.stream.flush()
        except OSError:
            self._leave("")

    def _leave(self, text: str) -> int:
        # what is still buffered goes to nowhere as well
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.stream.fileno())
        os.close(nowhere)
        return len(text)


def survive_without_terminal() -> None:
    """Make standard output and error never raise; if one is closed, what is written goes to nowhere."""
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name)
        if stream is None:  # otherwise the next file that is opened would take its place
            while (opened := os.open(os.devnull, os.O_RDWR)) < descriptor:
                pass
            stream = os.fdopen(opened, "w")
        if not isinstance(stream, Terminal):
            setattr(sys, name, Terminal(stream))
