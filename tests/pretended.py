"""A run that is none: in a file of its own, for a process that is spawned imports what is around it."""

import os
from pathlib import Path


def tell_session(words: list[str]) -> None:
    """Make a run's folder, and say which GPUs it sees and whether its session is its own."""
    folder = Path(next(word for word in words if word.startswith("folder=")).partition("=")[2].strip("'"))
    folder.mkdir()
    (folder / "config.yaml").touch()
    text = f"{os.environ.get('CUDA_VISIBLE_DEVICES')} {os.getsid(0) == os.getpid()}"
    os.write(1, text.encode())  # not print, whose stream is pytest's in a forked process
