"""Lightning's Trainer, with what this project changes in it in one place."""

import os
from datetime import timedelta
from math import ceil
from pathlib import Path
from typing import Any, Literal

import lightning
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.callbacks import (
    BackboneFinetuning,
    BatchSizeFinder,
    LearningRateFinder,
    ModelPruning,
    ProgressBar,
)
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch.distributed import DistError

from descent.errors import ConfigError, Stopped, blame, first_line
from descent.loop import HELD_AGAINST, LeanLoop
from descent.machine import compile_in_place
from descent.run import checkpoints
from descent.run.folder import RunFolder

EPOCHS, BATCHES = 40, 800  # of a run, at least
GLOO = ("gloo", "pair closure")  # words of its messages, for it raises nothing of a type of its own
REFUSED = {  # callbacks of Lightning, and why a run does not take them
    BatchSizeFinder: "which trains by itself",
    LearningRateFinder: "which trains by itself",
    ModelPruning: "which renames the weights, so that the run's own checkpoints would not fit",
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
        check_callbacks(arguments.get("callbacks") or [], arguments.get("enable_progress_bar", True))
        super().__init__(**arguments)
        folder = self.profiler.dirpath  # type: ignore[attr-defined]
        if folder:
            with blame("profiler"):
                Path(folder).mkdir(parents=True, exist_ok=True)  # Lightning does it when a run ends
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
        for callback in self.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, BackboneFinetuning) and not hasattr(model, "backbone"):
                reason = "the module has no backbone; init_from=… freeze=[…] keeps layers as they are"
                raise ConfigError("callbacks", expected=f"other ones than BackboneFinetuning: {reason}")
        with blame("logger"):
            # as Lightning would: W&B first, which otherwise misses what TensorBoard writes
            for logger in sorted(self.loggers, key=lambda logger: not isinstance(logger, WandbLogger)):
                getattr(logger, "experiment", None)  # opens its files
        try:
            super().fit(model, *arguments, **more)
        except MisconfigurationException as error:
            raise ConfigError("trainer", expected=f"values that it takes ({first_line(error)})") from error
        except ValueError:
            interval, batches = self.val_check_interval, self.num_training_batches
            if self.check_val_every_n_epoch and isinstance(interval, int) and interval > batches:
                expected = f"at most {batches}, the batches of an epoch"
                raise ConfigError("trainer.val_check_interval", interval, expected=expected) from None
            raise
        except RuntimeError as error:
            told = isinstance(error, DistError) or any(words in str(error) for words in GLOO)
            if self.world_size == 1 or not told:
                raise
            advice = RunFolder(self.default_root_dir).advise()
            raise Stopped(f"Another process of this run has ended or does not answer. {advice}", 1) from error


def check_callbacks(callbacks: list[Callback], bars: bool) -> None:
    """Raise a `ConfigError` if one of the callbacks does not go with a run.

    Args:
        callbacks: of the run.
        bars: whether Lightning may draw progress bars.
    """
    for callback in callbacks:
        for kind, reason in REFUSED.items():
            if isinstance(callback, kind):
                raise ConfigError("callbacks", expected=f"other ones than {kind.__name__}, {reason}")
        if isinstance(callback, ProgressBar) and not bars:
            raise ConfigError("enable_progress_bar", False, expected="true, for a progress bar is chosen")


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
