"""The best weights of a run, by a metric."""

from pathlib import Path
from typing import Any

import lightning
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint, WeightAveraging
from torch import Tensor

from descent.callbacks.figures import DEFAULT, find_like, to_number
from descent.data.described import describe_data
from descent.errors import require, require_one_of
from descent.run.folder import RunFolder


class BestWeights(Checkpoint):
    """Saves the weights with the best value of a metric as `best.ckpt`, and records their metrics.

    They wait in memory until the next checkpoint is due, so that a run of many short epochs spends no
    time on files. To save several, use Lightning's `ModelCheckpoint` in addition.

    Args:
        monitor: the metric that decides, such as "val/loss".
        mode: "min" or "max".
    """

    state_key = "best_weights"

    def __init__(self, monitor: str, mode: str) -> None:
        require(mode in ("min", "max"), "mode", mode, "min or max")
        self.monitor, self.mode = monitor, mode
        self.best: dict[str, float] = {}  # epoch, step and the metrics of validation
        self.held: dict[str, Any] | None = None  # the best weights, while they are not written yet
        self.when = ""  # when the metric is known: at the end of "validation" or of the "epoch"
        self.validated = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.file = RunFolder(trainer.default_root_dir).weights("best")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.sanity_checking:
            self.validated = True
            self._compare(trainer, pl_module, "validation")

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        metrics = trainer.callback_metrics
        everything = self.validated or not trainer.enable_validation  # has been logged by now
        if self.monitor not in metrics and not self.best and everything:
            self.monitor = choose_monitor(self.monitor, [name for name in metrics if name != "epoch"])
        self._compare(trainer, pl_module, "epoch")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.write(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if trainer.world_size == 1 and trainer.strategy.lightning_module is not None:
            self.write(trainer)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        self.write(trainer)

    def write(self, trainer: Trainer) -> None:
        """Write the weights that are held in memory."""
        if self.held is not None and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            trainer.strategy.save_checkpoint(self.held, self.file)
        self.held = None

    def state_dict(self) -> dict[str, Any]:
        return {"monitor": self.monitor, "best": self.best, "when": self.when}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if self.monitor in (state_dict["monitor"], DEFAULT):
            self.monitor, self.best, self.when = (state_dict[name] for name in ("monitor", "best", "when"))
            require(all(isinstance(v, int | float) for v in self.best.values()), "best", self.best, "numbers")

    def _compare(self, trainer: Trainer, pl_module: LightningModule, when: str) -> None:
        """Keep a copy of the weights if their value is better than all before; NaN is never better."""
        metrics, sign = trainer.callback_metrics, 1 if self.mode == "min" else -1
        if self.monitor not in metrics or self.when not in ("", when):
            return
        self.when, value = when, to_number(metrics[self.monitor])
        if not sign * value < sign * self.best.get(self.monitor, sign * float("inf")):
            return
        epoch, step = trainer.current_epoch, trainer.global_step
        seen = {name: to_number(metric) for name, metric in metrics.items() if not name.startswith("train")}
        self.best = {"epoch": epoch + 1, "step": step, **seen, self.monitor: value}
        checkpoint = {
            "epoch": epoch,
            "global_step": step,
            "pytorch-lightning_version": lightning.__version__,
            "state_dict": trainer.strategy.lightning_module_state_dict(),
            **describe_data(trainer),
        }
        pl_module.on_save_checkpoint(checkpoint)
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, WeightAveraging):  # validation used the averaged weights
                callback.on_save_checkpoint(trainer, pl_module, checkpoint)
                del checkpoint["current_model_state"], checkpoint["averaging_state"]
        state = checkpoint["state_dict"].items()
        copies = {n: v.to("cpu", copy=True) if isinstance(v, Tensor) else v for n, v in state}
        self.held = {**checkpoint, "state_dict": copies}


def choose_monitor(monitor: str, logged: list[str]) -> str:
    """Return the logged metric nearest to the default; any other metric was asked for by name.

    Raises:
        ConfigError: the module does not log it.
    """
    if monitor != DEFAULT:
        shown = f"one of what the module logs: {', '.join(logged) or 'nothing'}"
        require_one_of(logged, "monitor", monitor, shown)
    if not logged:
        return DEFAULT
    found = find_like(logged)
    print(f"monitor={DEFAULT}: the module does not log it, so {found} is monitored", flush=True)
    return found


def find_best(trainer: Trainer) -> tuple[Path | None, dict[str, float]]:
    """Return the file of the best weights and their metrics; nothing if no callback saved any."""
    for callback in trainer.checkpoint_callbacks:
        if isinstance(callback, BestWeights) and callback.best:
            return (callback.file if callback.file.exists() else None), callback.best
        if isinstance(callback, ModelCheckpoint) and callback.best_model_path:
            score, name = callback.best_model_score, str(callback.monitor)
            return Path(callback.best_model_path), {} if score is None else {name: float(score)}
    return None, {}
