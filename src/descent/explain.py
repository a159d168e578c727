"""Explains what a library raised, where the user can act on it."""

import re
from typing import Any

from lightning.pytorch.accelerators import AcceleratorRegistry
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch.distributed import DistError

from descent.errors import ConfigError, Stopped, first_line, is_of_libraries, list_files
from descent.run.folder import RunFolder

PEERS = ("gloo", "pair closure")  # words of gloo's messages, because gloo has no exception type of its own


def explain_accelerator(error: Exception, accelerator: Any) -> None:
    """Raise a `ConfigError` if Lightning found no such accelerator on this machine."""
    if isinstance(error, ValueError | MisconfigurationException) and re.search(
        "ccelerator|backend", str(error)
    ):
        known = {*AcceleratorRegistry.available_accelerators(), "gpu", "auto"} - {accelerator}
        expected = f"what this machine has ({first_line(error)})"
        raise ConfigError("accelerator", accelerator, expected=expected, choices=known) from error


def explain(error: Exception, trainer: Any) -> None:
    """Raise an error that the user can act on, if the cause of a library's error is known."""
    text, line, advice = str(error), first_line(error), RunFolder(trainer.default_root_dir).advise()
    place = "".join(file.as_posix() for file in list_files(error)[-1:])  # of the code that raised it
    if "/torch/optim/" in place or "gradient clipping" in text:
        part = "scheduler" if place.endswith("lr_scheduler.py") else "optimizer"
        raise ConfigError(part, expected=f"one that suits this run ({line})") from error
    meant = isinstance(error, ValueError | RuntimeError | ModuleNotFoundError) and is_of_libraries(error)
    if isinstance(error, MisconfigurationException) or (meant and "/lightning/" in place):
        named = any(type(callback).__name__ in text for callback in trainer.callbacks)
        key = "callbacks" if named else "trainer"
        raise ConfigError(key, expected=f"valid values ({line})") from error
    if isinstance(error, RuntimeError) and "DataLoader worker" in text:  # the worker was killed
        raise Stopped(f"{line}. {advice}", 1) from error
    if trainer.world_size > 1 and (isinstance(error, DistError) or any(words in text for words in PEERS)):
        raise Stopped(f"Another process of this run has ended or does not answer. {advice}", 1) from error


def explain_loading(error: BaseException, folder: RunFolder) -> None:
    """Raise a `ConfigError` if a library could not load what a run's checkpoint contains."""
    known = isinstance(error, ConfigError | Stopped)
    if isinstance(error, Exception) and not known and is_of_libraries(error):
        reason = f"{type(error).__name__}: {first_line(error)[:300]}"
        expected = f"checkpoints of this run, which contain its state ({reason})"
        raise ConfigError("resume", str(folder), expected=expected) from error
