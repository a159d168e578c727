"""Lightning's Trainer, with this project's changes in one place."""

import os
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from math import ceil
from pathlib import Path
from typing import Any, Literal

import lightning
from lightning.pytorch import LightningModule
from lightning.pytorch.accelerators import AcceleratorRegistry
from lightning.pytorch.profilers import PassThroughProfiler, Profiler
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch.distributed import DistError

from descent.errors import ConfigError, Stopped, blame, first_line, is_of_libraries, list_files, require
from descent.machine import compile_in_place
from descent.run.checkpoints import CheckpointFiles
from descent.run.folder import RunFolder

EPOCHS, BATCHES = 40, 800  # minimum length of a run
PEERS = ("gloo", "pair closure")  # words of gloo's messages, because gloo has no exception type of its own
LEAST = {  # numbers that Lightning does not check, or checks too late
    "accumulate_grad_batches": 1,
    "check_val_every_n_epoch": 1,
    "gradient_clip_val": 0,
    "log_every_n_steps": 0,
    "max_epochs": -1,
    "num_nodes": 1,
    "reload_dataloaders_every_n_epochs": 0,
}


class Quiet(PassThroughProfiler):
    """No profiler: Lightning's own, which measures nothing either, takes 1 µs per hook."""

    context = nullcontext()

    def profile(self, action_name: str) -> AbstractContextManager[None]:  # type: ignore[override]
        return self.context


class Trainer(lightning.pytorch.Trainer):
    """Lightning's Trainer, which runs Lightning's own loop, with checkpoints that stay in the run's folder.

    Args:
        compile: whether torch compiles the model.
        max_epochs: as in Lightning, or "auto": 40, or more if those have fewer than 800 batches, because a
            model of a table with a hundred rows has learned little by then (docs/accuracy.md).
        batches: training batches per epoch, if known.
        arguments: those of `lightning.pytorch.Trainer`.
    """

    def __init__(
        self,
        default_root_dir: Path | str,
        compile: bool = False,
        max_epochs: int | Literal["auto"] | None = "auto",
        batches: int | None = None,
        profiler: Profiler | str | None = None,
        **arguments: Any,
    ) -> None:
        if max_epochs == "auto":
            max_epochs = max(EPOCHS, ceil(BATCHES / batches)) if batches else EPOCHS
        for name, least in LEAST.items():
            value = max_epochs if name == "max_epochs" else arguments.get(name)
            require(not isinstance(value, int | float) or value >= least, name, value, f"at least {least}")
        every, nodes = arguments.get("val_check_interval"), arguments.get("num_nodes", 1)
        require(every != 0, "val_check_interval", every, "a number above 0")
        found = nodes == 1 or {"MASTER_ADDR", "SLURM_JOB_ID"} & set(os.environ)
        expected = "1, or MASTER_ADDR, MASTER_PORT and NODE_RANK set, by which nodes find one another"
        require(bool(found), "num_nodes", nodes, expected)
        try:
            super().__init__(
                default_root_dir=default_root_dir,
                max_epochs=max_epochs,
                profiler=Quiet() if profiler is None else profiler,
                **arguments,
            )
        except (MisconfigurationException, ValueError) as error:
            if "ccelerator" not in str(error) and "backend" not in str(error):
                raise
            known = [*AcceleratorRegistry.available_accelerators(), "gpu", "auto"]
            wrong, expected = (
                arguments.get("accelerator", "auto"),
                f"what this machine has ({first_line(error)})",
            )
            raise ConfigError("accelerator", wrong, expected=expected, choices=known) from error
        if getattr(self.strategy.launcher, "_start_method", "") == "spawn":
            expected = "ddp, because what a run is made of cannot be sent to processes that are spawned"
            raise ConfigError("strategy", arguments["strategy"], expected=expected)
        self.compile, self.root = compile, Path(default_root_dir)
        self.strategy.checkpoint_io = CheckpointFiles(self.root)

    def fit(self, model: LightningModule, *arguments: Any, **more: Any) -> None:  # type: ignore[override]
        """Train; what Lightning rejects only now becomes a `ConfigError` for `trainer`."""
        if self.strategy.root_device.type == "cpu":
            # Lightning sets it, which makes Adam look for a GPU driver at each step, 0.1 ms each
            os.environ.pop("PYTORCH_NVML_BASED_CUDA_CHECK", None)
        if self.compile:
            compile_in_place(getattr(model, "model", model), self.strategy.root_device)
        with blame("logger"):
            for logger in self.loggers:
                getattr(logger, "experiment", None)  # opens its files
        try:
            super().fit(model, *arguments, **more)
        except Exception as error:
            self._explain(error)
            raise

    def _explain(self, error: Exception) -> None:
        """Raise an error that the user can act on, if the cause of a library's error is known."""
        text, line, advice = str(error), first_line(error), RunFolder(self.root).advise()
        place = "".join(file.as_posix() for file in list_files(error)[-1:])  # of the code that raised it
        if "/torch/optim/" in place or "gradient clipping" in text:
            part = "scheduler" if place.endswith("lr_scheduler.py") else "optimizer"
            raise ConfigError(part, expected=f"one that serves this run ({line})") from error
        rejected = "/lightning/" in place and isinstance(error, ValueError | ModuleNotFoundError)
        if isinstance(error, MisconfigurationException) or (rejected and is_of_libraries(error)):
            named = any(type(one).__name__ in text for one in self.callbacks)  # type: ignore[attr-defined]
            key = "callbacks" if named else "trainer"
            raise ConfigError(key, expected=f"values that it takes ({line})") from error
        if isinstance(error, RuntimeError) and "DataLoader worker" in text:  # the worker was killed
            raise Stopped(f"{line}. {advice}", 1) from error
        if self.world_size > 1 and (isinstance(error, DistError) or any(words in text for words in PEERS)):
            message = f"Another process of this run has ended or does not answer. {advice}"
            raise Stopped(message, 1) from error

    def test(self, model: Any, *arguments: Any, **more: Any) -> Any:  # type: ignore[override]
        """Test; if the module or data defines no test, as is usual in plain Lightning, a line says so."""
        parts = {"test_step": model, "test_dataloader": more.get("datamodule")}
        missing = [name for name, part in parts.items() if part is not None and not is_overridden(name, part)]
        if missing and self.is_global_zero:
            print(f"No test, because {type(parts[missing[0]]).__name__} has no {missing[0]}", flush=True)
        return [] if missing else super().test(model, *arguments, **more)


def ddp(timeout: int) -> DDPStrategy:
    """Return a strategy with one process per device, each waiting `timeout` seconds for the others."""
    return DDPStrategy(timeout=timedelta(seconds=timeout))
