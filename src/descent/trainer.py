"""Lightning's Trainer, with this project's changes in one place."""

import os
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from math import ceil
from pathlib import Path
from typing import Any, Literal

import lightning
from lightning.pytorch import LightningModule
from lightning.pytorch.profilers import PassThroughProfiler, Profiler
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy
from lightning.pytorch.utilities.model_helpers import is_overridden

from descent.errors import ConfigError, blame, require
from descent.run.checkpoints import CheckpointFiles

EPOCHS, BATCHES = 40, 800  # minimum length of a run
# of numbers that Lightning does not check, or checks too late
LEAST = {"accumulate_grad_batches": 1, "check_val_every_n_epoch": 1, "gradient_clip_val": 0, "max_epochs": -1}


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
        arguments["max_epochs"] = max_epochs
        for name, least in LEAST.items():
            value = arguments.get(name)
            require(value is None or value >= least, name, value, f"at least {least}")
        every, nodes = arguments.get("val_check_interval"), arguments.get("num_nodes", 1)
        require(every != 0, "val_check_interval", every, "a number above 0")
        found = nodes == 1 or {"MASTER_ADDR", "SLURM_JOB_ID"} & set(os.environ)
        expected = "1, or MASTER_ADDR, MASTER_PORT and NODE_RANK set, so that nodes find each other"
        require(bool(found), "num_nodes", nodes, expected)
        try:
            super().__init__(
                default_root_dir=default_root_dir,
                profiler=Quiet() if profiler is None else profiler,
                **arguments,
            )
        except Exception as error:
            from descent.explain import explain_accelerator

            explain_accelerator(error, arguments.get("accelerator", "auto"))
            raise
        most = max(8, os.cpu_count() or 1)  # each process on the CPU imports everything again
        good = self.strategy.root_device.type != "cpu" or self.num_devices <= most
        require(good, "devices", self.num_devices, f"at most {most} on this CPU")
        spawns = getattr(self.strategy.launcher, "_start_method", "") == "spawn"
        if spawns or isinstance(self.strategy, ModelParallelStrategy):  # which cannot load best.ckpt
            expected = "ddp or fsdp, because others cannot start a run's processes or load its best weights"
            raise ConfigError("strategy", expected=expected)
        self.compile = compile
        self.strategy.checkpoint_io = CheckpointFiles(Path(default_root_dir))

    def fit(self, model: LightningModule, *arguments: Any, **more: Any) -> None:  # type: ignore[override]
        """Train; what Lightning rejects only now becomes a `ConfigError` for `trainer`."""
        if self.strategy.root_device.type == "cpu":
            # Lightning sets it, which makes Adam look for a GPU driver at each step, 0.1 ms each
            os.environ.pop("PYTORCH_NVML_BASED_CUDA_CHECK", None)
        if self.compile:
            from descent.compiling import compile_in_place

            compile_in_place(getattr(model, "model", model), self.strategy.root_device)
        with blame("logger"):
            for logger in self.loggers:
                getattr(logger, "experiment", None)  # opens its files
        try:
            super().fit(model, *arguments, **more)
        except Exception as error:
            from descent.explain import explain

            explain(error, self)
            raise

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
