"""Records what a run did: its metrics, its result, and what TensorBoard shows besides the curves."""

import csv
import io
import json
import os
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_only
from torch import nn

from descent.build import Config
from descent.callbacks.best_weights import find_best
from descent.callbacks.figures import fit_terminal, title_of, to_number, without_nan
from descent.errors import clean, require_one_of
from descent.machine import describe_environment
from descent.paths import ROOT
from descent.run.atomic import write_text
from descent.run.folder import Run, command

STEPS = 50  # between points of the learning rate's curve, if a schedule changes it by step


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
        self.columns: list[str] = []
        self.of_validation: list[str] = []  # the names that validation logs
        self.validated = -1  # the step of the last validation
        self.result: dict[str, Any] = {}
        self.resumed = False
        self.begun = 0.0  # when training began, without the time between a run's end and its resumption
        self.by_step, self.epoch_begun, self.seen = False, 0.0, 0  # see `on_train_start`; of this epoch

    def setup(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        if stage == "fit" and hasattr(pl_module, "list_logged") and trainer.limit_val_batches:
            require_monitors(self.config, pl_module.list_logged())
        for logger in trainer.loggers:
            logger.log_hyperparams(list_hyperparameters(self.config, self.run.choices))

    def state_dict(self) -> dict[str, Any]:
        return {
            "rows": len(self.rows),
            "of_validation": self.of_validation,
            "validated": self.validated,
            "seconds": time.perf_counter() - self.begun,
            "result": self.result,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.of_validation, self.validated = state_dict["of_validation"], state_dict["validated"]
        self.resumed, self.begun = True, -state_dict["seconds"]
        self.result = state_dict["result"]  # of a run that was killed before its test
        self.run.trim()
        # without the epochs after the checkpoint, which will run again
        self.rows = read_rows(self.run.folder.metrics)[: state_dict["rows"]]
        self._write_rows()

    def on_load_checkpoint(self, trainer: Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        if trainer.state.fn != TrainerFn.FITTING:
            checkpoint["callbacks"] = {}  # testing weights leaves the run's record as it is
        elif "optimizer.lr" in self.run.changes:
            for group in checkpoint["optimizer_states"][0]["param_groups"]:
                group["lr"] = self.run.changes["optimizer.lr"]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero:
            if not self.resumed:
                self._describe(trainer, pl_module)
            print("\n".join(map(fit_terminal, clean(self.title).split("\n"))), flush=True)
            if trainer.max_epochs == trainer.max_steps == -1:
                until = "trains until you stop it; Ctrl-C saves and ends it"
                print(f"trainer.max_epochs=-1: {until}", flush=True)
        self.by_step = any(scheduler.interval == "step" for scheduler in trainer.lr_scheduler_configs)
        self.begun += time.perf_counter()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: Any) -> None:
        self.seen = getattr(pl_module, "samples_seen", 0)
        # a resumed run may begin in the middle of an epoch, of which it has seen only a part
        self.epoch_begun = 0.0 if self.resumed else time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.loggers and trainer.is_last_batch:  # before validation releases the gradients
            grads = [p.grad for p in pl_module.parameters() if p.grad is not None and not p.grad.is_sparse]
            if grads:
                log(trainer, "grad_norm", nn.utils.get_total_norm(grads).item())
        elif self.by_step and batch_idx % STEPS == 0:
            log(trainer, "lr", find_rate(trainer))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.sanity_checking:
            return
        self.validated = trainer.global_step
        if not self.of_validation:
            self.of_validation = [n for n in trainer.callback_metrics if not n.startswith("train")]
        if not trainer.is_last_batch:
            figures = self._list_figures(trainer)
            self._add_row(trainer, {n: figures[n] for n in self.of_validation if n in figures})

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._add_row(trainer, self._list_figures(trainer))
        samples = (getattr(pl_module, "samples_seen", 0) - self.seen) * trainer.world_size
        if samples and self.epoch_begun:
            log(trainer, "samples_per_second", samples / (time.perf_counter() - self.epoch_begun))

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        for logger in trainer.loggers:
            logger.save()  # the checkpoint records how long TensorBoard's files are
        if trainer.is_global_zero and self.resumed:
            for file, text in self.run.files.items():  # from here on, the overrides typed for resuming apply
                write_text(file, text)
            self.resumed = False

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        if not self.rows or not trainer.is_global_zero:
            return
        seconds = time.perf_counter() - self.begun
        self.result = {
            "epochs": trainer.current_epoch,
            "steps": trainer.global_step,
            "seconds": round(seconds, 3),
            "final": self.rows[-1],
            "best": find_best(trainer)[1] or None,
        }
        if samples := getattr(pl_module, "samples_seen", 0) * trainer.world_size:
            self.result["samples_per_second"] = round(samples / seconds, 1)
        self._write_result()

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.is_global_zero or not self.result:
            return
        tested = {n: v for n, v in trainer.callback_metrics.items() if n not in self.rows[-1]}
        self.result["test"] = {name: to_number(value) for name, value in tested.items()}
        self._write_result()
        curves = [name for name in (*self.rows[-1], *tested) if not name.startswith("train") and "/" in name]
        for writer in find_writers(trainer):
            from descent.callbacks.board import add_hyperparameters

            add_hyperparameters(writer, list_hyperparameters(self.config, self.run.choices), curves)

    @rank_zero_only
    def summarise(self, trainer: Trainer) -> None:
        """Print the run's results, where its folder is, and how to view it."""
        best, lines = self.result.get("best") or {}, []
        if figures := self.result.get("test"):
            of = f" (the best checkpoint, of epoch {best['epoch']:g})" if "epoch" in best else ""
            line = ", ".join(f"{title_of(k)}: {v:.4f}" for k, v in figures.items())
            lines.append(fit_terminal(line + of))
        if self.result:
            epochs = self.result["epochs"]
            speed = f"{self.result['seconds']:.1f} s"
            if "samples_per_second" in self.result:
                speed += f", {self.result['samples_per_second']:,.0f} samples/s"
            lines.append(f"Trained {epochs} epoch{'s' if epochs > 1 else ''} in {speed}")
            if 1 < epochs == best.get("epoch") == trainer.max_epochs:
                longer = f"trainer.max_epochs={2 * epochs}"
                lines.append(f"The last epoch was the best: more epochs may help, {longer}")
        taken = " (another run has the name that you asked for)" if self.run.taken else ""
        lines.append(f"Run folder:  {self.run.folder}{taken}")
        if self.run.folder.events():
            logs = os.path.relpath(self.run.folder.path.parent)
            lines.append(f"TensorBoard: {command(f'tensorboard --logdir {logs}')}")
        print(clean("\n".join(lines)), flush=True)

    def _describe(self, trainer: Trainer, pl_module: Any) -> None:
        """Write the data, the environment and the code's revision, and show them in TensorBoard."""
        folder = self.run.folder
        texts = {folder.data: self.preview, folder.environment: json.dumps(describe_environment(), indent=2)}
        for file, text in {**texts, **take_revision(self.run)}.items():
            write_text(file, text)
        for writer in find_writers(trainer):
            from descent.callbacks.board import add_run

            add_run(writer, folder, pl_module, trainer.datamodule)  # type: ignore[attr-defined]

    def _list_figures(self, trainer: Trainer) -> dict[str, float]:
        """Return what has been logged, training's first; validation's only if it ran since the last step."""
        stale = self.of_validation if self.validated != trainer.global_step else ()
        logged = trainer.callback_metrics
        names = [name for name in logged if name not in stale and not name.startswith("test")]
        names.sort(key=lambda name: name in self.of_validation)
        return {name: to_number(logged[name]) for name in names}

    def _add_row(self, trainer: Trainer, figures: dict[str, float]) -> None:
        if not trainer.is_global_zero:
            return
        rate = find_rate(trainer)
        log(trainer, "lr", rate)
        place = {"epoch": trainer.current_epoch + 1, "step": trainer.global_step}
        self.rows.append({**place, **figures, "lr": float(f"{rate:.7g}")})
        # a late column, as with validation every few epochs, needs a new header
        if self.rows[-1].keys() - set(self.columns):
            self._write_rows()
        else:
            with self.run.folder.metrics.open("a", newline="", encoding="utf-8") as file:
                csv.DictWriter(file, self.columns).writerow(self.rows[-1])

    @rank_zero_only
    def _write_rows(self) -> None:
        text = io.StringIO(newline="")
        self.columns = list(dict.fromkeys(name for row in self.rows for name in row))
        writer = csv.DictWriter(text, self.columns)
        writer.writeheader()
        writer.writerows(self.rows)
        write_text(self.run.folder.metrics, text.getvalue())

    def _write_result(self) -> None:
        write_text(self.run.folder.result, json.dumps(without_nan(self.result), indent=2) + "\n")


def log(trainer: Trainer, name: str, value: float) -> None:
    """Add a point to a curve in every logger."""
    for logger in trainer.loggers:
        logger.log_metrics({name: value}, trainer.global_step)


def find_rate(trainer: Trainer) -> float:
    """Return the first learning rate; NaN if the module steps no optimizer."""
    return float(trainer.optimizers[0].param_groups[0]["lr"]) if trainer.optimizers else float("nan")


def read_rows(file: Path) -> list[dict[str, float]]:
    """Return the rows of a run's metrics.csv; whole numbers are ints."""
    from descent.run.trust import read_text

    rows = csv.DictReader(io.StringIO(read_text(file))) if file.exists() else ()
    numbers = [{name: text for name, text in row.items() if text} for row in rows]
    return [{n: int(t) if t.lstrip("-").isdigit() else float(t) for n, t in row.items()} for row in numbers]


def require_monitors(config: Mapping[str, Any], logged: list[str]) -> None:
    """Raise a `ConfigError` for the first part that monitors what the module does not log."""
    nodes = {"monitor": config, "scheduler.monitor": config["scheduler"]}
    nodes |= {f"callbacks.{name}.monitor": callback for name, callback in config["callbacks"].items()}
    for key, node in nodes.items():
        monitor = (node or {}).get("monitor")
        if monitor is not None and not monitor.startswith(tuple(f"{name}_" for name in logged)):
            require_one_of(logged, key, monitor)  # a metric of several values adds their names to its own


def list_hyperparameters(config: Mapping[str, Any], choices: Mapping[str, str]) -> dict[str, Any]:
    """Return the choices and fields that runs are compared by, by key, such as "optimizer.lr"."""
    groups = ("loss", "optimizer", "scheduler", "model", "data", "trainer")
    fields = {f"{group}.{name}": v for group in groups for name, v in (config[group] or {}).items()}
    set_to = {key: value for key, value in fields.items() if value is not None and "._" not in key}
    return {**{group: choices.get(group) for group in groups}, "seed": config["seed"], **set_to}


def find_writers(trainer: Trainer) -> list[Any]:
    """Return the TensorBoard writers of a trainer, each a `torch.utils.tensorboard.SummaryWriter`."""
    return [logger.experiment for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]


def take_revision(run: Run) -> dict[Path, str]:
    """Return the code's commit and the diff from it, by file; nothing outside a repository."""
    texts = []
    for words in (["rev-parse", "HEAD"], ["diff", "HEAD"]):
        try:
            answer = subprocess.run(["git", "-C", ROOT, *words], capture_output=True, check=True)
        except (OSError, subprocess.CalledProcessError):  # no git, no repository, no commit
            return {}
        texts.append(answer.stdout.decode(errors="replace"))
    return dict(zip((run.folder.revision, run.folder.changes), texts, strict=True))
