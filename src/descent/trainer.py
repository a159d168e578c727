"""Lightning's Trainer, with what this project changes in it in one place."""

import os
from datetime import timedelta
from math import ceil
from pathlib import Path
from traceback import walk_tb
from typing import Any, Literal

import lightning
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import BatchSizeFinder, LearningRateFinder
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch.distributed import DistError

from descent.errors import ConfigError, Stopped, first_line
from descent.loop import HELD_AGAINST, LeanLoop
from descent.machine import compile_in_place
from descent.run import checkpoints
from descent.run.folder import RunFolder

EPOCHS, BATCHES = 40, 800  # of a run, at least
OPENED = {  # what opens its files only when a run is set up, by the module that does it
    "lightning.fabric.loggers.logger": "logger",
    "lightning.pytorch.profilers.profiler": "trainer.profiler",
}


class Trainer(lightning.pytorch.Trainer):
    """Lightning's Trainer, with two fields more.

    Args:
        loop: "lean" calls around each batch those hooks alone that something overrides (`descent.loop`);
            "lightning" is Lightning's own loop.
        compile: true has torch compile the model, "step" all of a training step but the optimizer.
        arguments: those of `lightning.pytorch.Trainer`.
    """

    def __init__(
        self, loop: Literal["lean", "lightning"], compile: bool | Literal["step"], **arguments: Any
    ) -> None:
        super().__init__(**arguments)
        for callback in self.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, BatchSizeFinder | LearningRateFinder):
                name = type(callback).__name__
                raise ConfigError("callbacks", expected=f"other ones than {name}, which trains by itself")
        if getattr(self.strategy.launcher, "_start_method", "") == "spawn":
            expected = "ddp, for what a run is made of cannot be sent to processes that are spawned"
            raise ConfigError("strategy", arguments["strategy"], expected=expected)
        if compile == "step" and loop != "lean":
            raise ConfigError("loop", loop, expected="lean, whose steps compile=step compiles")
        self.compile = compile
        self.strategy.checkpoint_io = CheckpointFiles()
        if loop == "lean" and lightning.__version__ in HELD_AGAINST:
            self.fit_loop.epoch_loop = lean = LeanLoop(self, self.min_steps, self.max_steps)
            lean.compiles = compile == "step"
        elif loop == "lean":
            held, words = ", ".join(HELD_AGAINST), "loop=lean"
            if compile == "step":
                words += " compile=step"
            print(f"{words}: was held against Lightning {held}; {lightning.__version__} runs its own loop")

    def fit(self, model: LightningModule, *arguments: Any, **more: Any) -> None:  # type: ignore[override]
        """Train; a value that Lightning refuses only now is told as the fault of `trainer`."""
        if self.strategy.root_device.type == "cpu":
            # Lightning sets it; Adam would look for a GPU's driver at each step, which takes 0.1 ms
            os.environ.pop("PYTORCH_NVML_BASED_CUDA_CHECK", None)
        if self.compile is True:
            compile_in_place(model.model, self.strategy.root_device)  # type: ignore[arg-type]
        try:
            super().fit(model, *arguments, **more)
        except (MisconfigurationException, ValueError, ModuleNotFoundError) as error:
            if isinstance(error, ConfigError) or not is_raised_by(error, "lightning"):
                raise
            raise ConfigError("trainer", expected=f"values that it takes ({first_line(error)})") from error
        except (OSError, TypeError) as error:
            opened = [key for module, key in OPENED.items() if module in list_modules(error)]
            if not opened:
                raise
            raise ConfigError(opened[0], expected=f"values that it takes ({first_line(error)})") from error
        except RuntimeError as error:
            # gloo raises nothing of a type of its own, and within the backward pass
            told = isinstance(error, DistError) or "gloo" in str(error)
            told = told or is_raised_by(error, "torch.distributed", "torch.nn.parallel")
            if self.world_size == 1 or not told:
                raise
            advice = RunFolder(self.default_root_dir).advise()
            raise Stopped(f"Another process of this run has ended or does not answer. {advice}", 1) from error


def count_epochs(epochs: int | Literal["auto"] | None, batches: int | None) -> int | None:
    """Return the number of epochs of a run.

    Args:
        epochs: as of the config. "auto" is 40, and more where those have fewer than 800 batches: a table of a
            hundred rows has learned little by then (docs/accuracy.md).
        batches: training batches of an epoch; None where that is not known.
    """
    if epochs != "auto":
        return epochs
    return EPOCHS if batches is None else max(EPOCHS, ceil(BATCHES / batches))


def ddp(timeout: int) -> DDPStrategy:
    """Return a strategy that has one process for each device and averages their gradients.

    Args:
        timeout: seconds that a process waits for the others.
    """
    return DDPStrategy(timeout=timedelta(seconds=timeout))


class CheckpointFiles(TorchCheckpointIO):
    """Lightning's reading and writing of checkpoints, made safe: see `descent.run.checkpoints`."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        checkpoints.write(checkpoint, Path(path))

    def load_checkpoint(
        self, path: Any, map_location: Any = "cpu", weights_only: bool | None = True
    ) -> dict[str, Any]:
        return checkpoints.read(Path(path), map_location)


def is_raised_by(error: Exception, *packages: str) -> bool:
    """Whether one of these packages itself refuses something, and not what it calls."""
    module = list_modules(error)[-1]
    return any(module == package or module.startswith(f"{package}.") for package in packages)


def list_modules(error: Exception) -> list[str]:
    """Return the names of the modules that an exception passed through, the one that raised it last."""
    return [frame.f_globals.get("__name__", "") for frame, _ in walk_tb(error.__traceback__)]
