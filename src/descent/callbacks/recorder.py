"""Records what a run did: its metrics, its result, and what TensorBoard shows besides the curves."""

import csv
import io
import json
import os
import subprocess
import time
from collections.abc import Mapping
from math import isfinite
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_only
from torch import nn

from descent.build import Config
from descent.callbacks.best_weights import find_best
from descent.callbacks.figures import list_figures, title_of
from descent.data.described import find_sizes
from descent.errors import ConfigError, clean, require_one_of
from descent.machine import describe_environment
from descent.paths import ROOT
from descent.run.atomic import write_text
from descent.run.folder import Run, command

FLUSH = 1.0  # seconds between flushes of the loggers' files
STEPS = 50  # between points of the learning rate's curve, if it changes by step


class Recorder(Checkpoint):  # Lightning calls it last, when everything that an epoch logs is there
    """Writes the environment and the code's revision at the start, the metrics after each validation and each
    epoch, and the result at the end.

    Args:
        run: the run whose folder it writes to.
        config: the run's config.
        title: the line to print when training starts.
        preview: the contents of `data.txt`.
    """

    state_key = "recorder"

    def __init__(self, run: Run, config: Config, title: str, preview: str) -> None:
        self.run, self.config, self.title, self.preview = run, config, title, preview
        self.rows: list[dict[str, float]] = []  # of metrics.csv
        self.columns: dict[str, None] = {}
        self.of_validation: list[str] = []  # the names that validation logs
        self.validated = -1  # the step of the last validation
        self.result: dict[str, Any] = {}
        self.begun = self.flushed = 0.0
        self.seconds = 0.0  # of training before this process, if the run is resumed
        self.resumed = False
        self.by_step = False
        self.planned: int | None = None  # epochs of the run
        self.gradients: dict[str, float] = {}  # the norm at the end of the epoch

    def setup(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        if stage == "fit" and hasattr(pl_module, "list_logged"):
            require_monitors(self.config, pl_module.list_logged(), trainer.limit_val_batches == 0)
        for logger in trainer.loggers:
            logger.log_hyperparams(list_hyperparameters(self.config, self.run.choices))

    def state_dict(self) -> dict[str, Any]:
        return {
            "rows": len(self.rows),
            "of_validation": self.of_validation,
            "validated": self.validated,
            "seconds": self._count_seconds(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.of_validation, self.validated = state_dict["of_validation"], state_dict["validated"]
        self.seconds, self.resumed = state_dict["seconds"], True
        self.run.trim()
        if self.run.folder.metrics.exists():
            from descent.run.trust import read_text

            lines = csv.DictReader(io.StringIO(read_text(self.run.folder.metrics)))
            # drop the epochs after the checkpoint, which will run again
            rows = [row for row, _ in zip(lines, range(state_dict["rows"]), strict=False)]
            self.rows = [{name: to_number(text) for name, text in row.items() if text} for row in rows]
        self._write_rows()

    def on_load_checkpoint(self, trainer: Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        rate = self.run.changes.get("optimizer.lr")
        if rate is not None and trainer.state.fn == TrainerFn.FITTING:
            for group in checkpoint["optimizer_states"][0]["param_groups"]:
                group["lr"] = rate

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero:
            if not self.resumed:
                self._describe(trainer, pl_module)
            print(clean(self.title), flush=True)
            if trainer.max_epochs == trainer.max_steps == -1:
                print(
                    "trainer.max_epochs=-1: trains until it is stopped, as by Ctrl-C, which saves", flush=True
                )
        self.by_step = any(c.interval == "step" for c in trainer.lr_scheduler_configs)
        self.begun = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.loggers and trainer.is_last_batch:  # before validation releases them
            grads = [p.grad for p in pl_module.parameters() if p.grad is not None and not p.grad.is_sparse]
            self.gradients = {"grad_norm": nn.utils.get_total_norm(grads).item()} if grads else {}
        if self.by_step and batch_idx % STEPS == 0:
            rates = {"lr": trainer.optimizers[0].param_groups[0]["lr"]}
            for logger in trainer.loggers:
                logger.log_metrics(rates, trainer.global_step)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.sanity_checking:
            return
        self.validated = trainer.global_step
        if not self.of_validation:
            self.of_validation = [n for n in trainer.callback_metrics if not n.startswith("train")]
        if not trainer.is_last_batch:
            figures = list_figures(trainer)
            self._add_row(trainer, {name: figures[name] for name in self.of_validation if name in figures})

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        rate = trainer.optimizers[0].param_groups[0]["lr"] if trainer.optimizers else float("nan")
        self._add_row(trainer, {**list_figures(trainer), "lr": float(f"{rate:.7g}")})
        points = ({} if self.by_step else {"lr": rate}) | self.gradients
        for logger in trainer.loggers:
            logger.log_metrics(points, trainer.global_step)
        if time.monotonic() - self.flushed > FLUSH:
            self._flush(trainer)

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self._flush(trainer)
        if trainer.is_global_zero and self.resumed:
            for file, text in self.run.files.items():  # from here on, the overrides typed for resuming apply
                write_text(file, text)
            self.resumed = False

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        if not self.rows or not trainer.is_global_zero:
            return
        seconds, self.planned = self._count_seconds(), trainer.max_epochs
        _, best = find_best(trainer)
        self.result = {
            "epochs": trainer.current_epoch,
            "steps": trainer.global_step,
            "seconds": round(seconds, 3),
            "final": self.rows[-1],
            "best": best or None,
        }
        if samples := getattr(pl_module, "samples_seen", 0) * trainer.world_size:
            self.result["samples_per_second"] = round(samples / seconds, 1)
        self._write_result()

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero and self.result:
            figures = {n: v for n, v in trainer.callback_metrics.items() if n not in self.rows[-1]}
            self.result["test"] = {n: float(f"{v.item():.7g}") for n, v in figures.items()}
            self._write_result()
            names = [name for name in (*self.rows[-1], *figures) if not name.startswith("train")]
            for writer in find_writers(trainer):
                from descent.callbacks.board import add_hyperparameters

                add_hyperparameters(writer, list_hyperparameters(self.config, self.run.choices), names)

    @rank_zero_only
    def summarise(self) -> None:
        """Print the run's results, where its folder is, and how to view it."""
        best, lines = self.result.get("best") or {}, []
        if figures := self.result.get("test"):
            of = f" (the best checkpoint, of epoch {best['epoch']:g})" if "epoch" in best else ""
            lines.append(", ".join(f"{title_of(k)}: {v:.4f}" for k, v in figures.items()) + of)
        if self.result:
            epochs = self.result["epochs"]
            speed = f"{self.result['seconds']:.1f} s"
            if "samples_per_second" in self.result:
                speed += f", {self.result['samples_per_second']:,.0f} samples/s"
            lines.append(f"Trained {epochs} epoch{'s' if epochs > 1 else ''} in {speed}")
            if 1 < epochs == best.get("epoch") == self.planned:
                longer = f"trainer.max_epochs={2 * epochs}"
                lines.append(f"The last epoch was the best: more epochs may help, {longer}")
        taken = " (the name that was asked for is another run's)" if self.run.taken else ""
        lines.append(f"Run folder:  {self.run.folder}{taken}")
        if self.run.folder.events():
            board = command("x").replace("python x", "tensorboard")
            lines.append(f"TensorBoard: {board} --logdir {os.path.relpath(self.run.path.parent)}")
        print(clean("\n".join(lines)), flush=True)

    def _describe(self, trainer: Trainer, pl_module: Any) -> None:
        """Write the data, the environment and the code's revision, and show them in TensorBoard."""
        folder = self.run.folder
        texts = {folder.data: self.preview, folder.environment: json.dumps(describe_environment(), indent=2)}
        for file, text in {**texts, **take_revision(self.run)}.items():
            write_text(file, text)
        for writer in find_writers(trainer):
            from descent.callbacks.board import add_graph, add_layout

            for file in (folder.config, folder.overrides, folder.data):
                writer.add_text(file.name, f"```yaml\n{file.read_text(encoding='utf-8')}\n```")
            add_layout(writer, getattr(pl_module, "list_logged", list)())
            shape = find_sizes(trainer.datamodule).get("input_shape")  # type: ignore[attr-defined]
            if shape and hasattr(pl_module, "model"):
                add_graph(writer, pl_module.model, torch.zeros(1, *shape, device=pl_module.device))

    def _add_row(self, trainer: Trainer, figures: dict[str, float]) -> None:
        if not trainer.is_global_zero:
            return
        row = {"epoch": trainer.current_epoch + 1, "step": trainer.global_step, **figures}
        self.rows.append(row)
        # a late column, as with validation every few epochs, needs a new header
        if row.keys() - self.columns:
            self._write_rows()
        else:
            with self.run.folder.metrics.open("a", newline="", encoding="utf-8") as file:
                csv.DictWriter(file, list(self.columns)).writerow(row)

    def _count_seconds(self) -> float:
        return self.seconds + (time.perf_counter() - self.begun if self.begun else 0.0)

    def _flush(self, trainer: Trainer) -> None:
        self.flushed = time.monotonic()
        for logger in trainer.loggers:
            logger.save()  # to the disk, where TensorBoard looks

    @rank_zero_only
    def _write_rows(self) -> None:
        text = io.StringIO(newline="")
        self.columns = dict.fromkeys(name for row in self.rows for name in row)
        writer = csv.DictWriter(text, list(self.columns))
        writer.writeheader()
        writer.writerows(self.rows)
        write_text(self.run.folder.metrics, text.getvalue())

    @rank_zero_only
    def _write_result(self) -> None:
        write_text(self.run.folder.result, json.dumps(without_nan(self.result), indent=2) + "\n")


def to_number(text: str) -> float:
    """Return a number from metrics.csv, as an int if it is written as one."""
    return int(text) if text.lstrip("-").isdigit() else float(text)


def without_nan(node: Any) -> Any:
    """Return nested dicts with None for NaN and infinity, which JSON does not have."""
    if isinstance(node, dict):
        return {name: without_nan(value) for name, value in node.items()}
    return None if isinstance(node, float) and not isfinite(node) else node


def require_monitors(config: Mapping[str, Any], logged: list[str], unvalidated: bool) -> None:
    """Reject monitoring something that the module does not log, or validation if there is none.

    Raises:
        ConfigError: naming the first such key.
    """
    nodes = {"monitor": config, "scheduler.monitor": config["scheduler"]}
    nodes |= {f"callbacks.{name}.monitor": callback for name, callback in config["callbacks"].items()}
    for key, node in nodes.items():
        monitor = (node or {}).get("monitor")
        if monitor is None:
            continue
        require_one_of(logged, key, monitor)
        if (
            unvalidated
            and monitor.startswith("val/")
            and key not in ("monitor", "callbacks.best_weights.monitor")
        ):
            raise ConfigError(key, monitor, expected="a metric of training, because no batch is validated")


def list_hyperparameters(config: Mapping[str, Any], choices: Mapping[str, str]) -> dict[str, Any]:
    """Return the hyperparameters that runs are compared by, by key, the most important first."""
    first = {"loss": choices.get("loss"), "optimizer": choices.get("optimizer")}
    first |= {"optimizer.lr": config["optimizer"].get("lr"), "seed": config["seed"]}
    values: dict[str, Any] = {}
    for group in ("loss", "optimizer", "scheduler", "model", "data"):
        values[group] = choices.get(group)
        fields = flatten(config[group] or {}, f"{group}.")
        values |= {key: value for key, value in fields.items() if value is not None and "._" not in key}
    trainer = ("max_epochs", "precision", "accumulate_grad_batches", "gradient_clip_val")
    values |= {f"trainer.{name}": config["trainer"].get(name) for name in trainer}
    return {**first, **values}


def flatten(node: Mapping[Any, Any], prefix: str = "") -> dict[str, Any]:
    """Return every value in nested dicts, by its key."""
    found: dict[str, Any] = {}
    for name, value in node.items():
        nested = isinstance(value, Mapping) and value
        found |= flatten(value, f"{prefix}{name}.") if nested else {f"{prefix}{name}": value}
    return found


def find_writers(trainer: Trainer) -> list[Any]:
    """Return the TensorBoard writers of a trainer, each a `torch.utils.tensorboard.SummaryWriter`."""
    return [logger.experiment for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]


def take_revision(run: Run) -> dict[Path, str]:
    """Return the code's commit and the diff from it, by file; nothing outside a repository."""

    def git(*arguments: str) -> str | None:
        try:
            answer = subprocess.run(["git", "-C", ROOT, *arguments], capture_output=True, check=True)
        except (OSError, subprocess.CalledProcessError):  # no git, no repository, no commit
            return None
        return answer.stdout.decode(errors="replace")

    commit, changes = git("rev-parse", "HEAD"), git("diff", "HEAD")
    return {} if commit is None else {run.folder.revision: commit, run.folder.changes: changes or ""}
