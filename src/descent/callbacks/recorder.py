"""Writes down what a run did: metrics by epoch, the result, and what TensorBoard shows beside the curves."""

import csv
import io
import json
import os
import subprocess
import time
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_only

from descent.callbacks.figures import Figures, title_of
from descent.machine import describe_environment
from descent.run.atomic import write_text
from descent.run.folder import Run

FIRST = ("loss", "optimizer", "optimizer.lr", "seed")  # the first columns of TensorBoard's HPARAMS
FLUSH = 1.0  # seconds between two moments at which TensorBoard's files are brought up to date


class Recorder(Figures):
    """Writes the environment and the code's revision at the start, the metrics after each epoch and the
    result at the end; gives TensorBoard the config as text, the model's graph, and the hyperparameters
    beside the final metrics.

    Args:
        run: whose folder it writes to.
        title: the line that it prints when training starts.
        data: what `data.txt` says about the data.
        input_shape: of one sample, for the model's graph.
    """

    def __init__(self, run: Run, title: str, data: str, input_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.run, self.folder, self.title, self.data = run, run.folder, title, data
        self.input_shape = input_shape
        self.rows: list[dict[str, float]] = []  # of metrics.csv
        self.result: dict[str, Any] = {}
        self.advice = ""
        self.begun = self.flushed = 0.0
        self.seconds = 0.0  # of training before this process, in a resumed run
        self.resumed = False

    @rank_zero_only
    def say(self, text: str) -> None:
        """Print, in the first process."""
        print(text, flush=True)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        for logger in trainer.loggers:
            logger.log_hyperparams(dict(self.run.hyperparameters))

    def state_dict(self) -> dict[str, Any]:
        state = {"rows": self.rows, "result": self.result, "seconds": self._count_seconds()}
        return {**super().state_dict(), **state}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self.rows, self.result, self.seconds = (state_dict[name] for name in ("rows", "result", "seconds"))
        self.resumed = True
        self._write_rows()  # without the epochs after the checkpoint, which will run again

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero and not self.resumed:
            texts = {
                self.folder.data: self.data,
                self.folder.environment: json.dumps(describe_environment(), indent=2),
                **take_revision(self.run),
            }
            for file, text in texts.items():
                write_text(file, text)
            shown = (self.folder.config, self.folder.overrides, self.folder.data)
            for writer in find_writers(trainer):
                for file in shown:
                    writer.add_text(file.name, f"```yaml\n{file.read_text(encoding='utf-8')}\n```")
                add_graph(writer, pl_module, self.input_shape)
        self.say(self.title)
        if trainer.max_epochs == trainer.max_steps == -1:
            self.say("trainer.max_epochs=-1: trains until it is stopped, as by Ctrl-C, which saves")
        self.begun = time.perf_counter()

    def on_figures(self, trainer: Trainer, epoch: int, figures: dict[str, float]) -> None:
        self.folder.before = None  # from here on there is more to show than what a resumed run found
        self.rows.append({"epoch": epoch, **figures})
        # a column that comes late, as with validation every few epochs, needs a new header
        late = [name for name in figures if name not in self.rows[0]]
        if late or len(self.rows) == 1:
            self.rows[0] |= dict.fromkeys(late, float("nan"))
            self._write_rows()
        else:
            with self.folder.metrics.open("a", newline="", encoding="utf-8") as file:
                csv.DictWriter(file, list(self.rows[0])).writerow(self.rows[-1])
        if time.monotonic() - self.flushed > FLUSH:
            self._flush(trainer)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        self.folder.before = None
        self._flush(trainer)
        if trainer.is_global_zero and self.resumed:
            for file, text in self.run.files.items():  # from here on, what was typed for resuming holds
                write_text(file, text)
            self.resumed = False

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        seconds = self._count_seconds()
        super().on_train_end(trainer, pl_module)
        if not self.rows:
            return
        samples = pl_module.samples_seen * trainer.world_size
        self.result = {
            "epochs": len(self.rows),
            "steps": trainer.global_step,
            "seconds": round(seconds, 3),
            "samples_per_second": round(samples / seconds, 1),
            "final": self.rows[-1],
        }
        checkpoint = trainer.checkpoint_callback
        if isinstance(checkpoint, ModelCheckpoint) and checkpoint.best_model_path:
            monitor = checkpoint.monitor or ""
            scored = [row for row in self.rows if monitor in row]
            best = min if checkpoint.mode == "min" else max
            self.result["best"] = best(scored, key=lambda row: row[monitor], default=None)
            epochs, whole = trainer.current_epoch, trainer.current_epoch == trainer.max_epochs
            if whole and epochs > 1 and self.result["best"] is self.rows[-1]:
                self.advice = suggest_longer(monitor, checkpoint.mode, epochs)
        self._write_result()

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero and self.result:
            figures = trainer.callback_metrics
            self.result["test"] = {n: float(f"{figures[n]:.7g}") for n in figures if n.startswith("test/")}
            self._write_result()
            for writer in find_writers(trainer):
                shown = [name for name in (*self.rows[-1], *self.result["test"]) if "train/" not in name]
                add_hyperparameters(writer, self.run.hyperparameters, shown)

    def summarise(self) -> str:
        """Say what the run reached, where its folder is, and how to look at it."""
        lines = []
        if figures := self.result.get("test"):
            best = self.result.get("best")
            of = f" (the best checkpoint, of epoch {best['epoch']})" if best else ""
            lines.append(", ".join(f"{title_of(k)}: {v:.4f}" for k, v in figures.items()) + of)
        if self.result:
            speed = f"{self.result['seconds']:.1f} s, {self.result['samples_per_second']:,.0f} samples/s"
            epochs = self.result["epochs"]
            lines.append(f"Trained {epochs} epoch{'s' if epochs > 1 else ''} in {speed}")
        if self.advice:
            lines.append(self.advice)
        taken = self.folder.path.name != self.run.wanted.path.name
        lines.append(f"Run folder:  {self.folder}{f' ({self.run.wanted} is another run)' if taken else ''}")
        if self.folder.events():
            uv = "uv run " if "UV" in os.environ else ""
            lines.append(f"TensorBoard: {uv}tensorboard --logdir {os.path.relpath(self.folder.path.parent)}")
        return "\n".join(lines)

    def best(self, monitor: str) -> float | None:
        """Return the best epoch's value of a metric, or the last epoch's if no best one was kept."""
        row = self.result.get("best") or self.result.get("final") or {}
        return row.get(monitor)

    def _count_seconds(self) -> float:
        return self.seconds + time.perf_counter() - self.begun

    def _flush(self, trainer: Trainer) -> None:
        self.flushed = time.monotonic()
        for logger in trainer.loggers:
            logger.save()  # to the disk, where TensorBoard looks

    @rank_zero_only
    def _write_rows(self) -> None:
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, list(self.rows[0]) if self.rows else [])
        writer.writeheader()
        writer.writerows(self.rows)
        write_text(self.folder.metrics, text.getvalue())

    @rank_zero_only
    def _write_result(self) -> None:
        write_text(self.folder.result, json.dumps(self.result, indent=2) + "\n")


def suggest_longer(monitor: str, mode: str, epochs: int) -> str:
    """Say what may help a run whose last epoch was its best."""
    course, longer = "falling" if mode == "min" else "rising", f"trainer.max_epochs={2 * epochs}"
    return f"{title_of(monitor)} was still {course} at the last epoch: more epochs may help, {longer}"


def find_writers(trainer: Trainer) -> list[Any]:
    """Return the TensorBoard writers of a trainer, each a `torch.utils.tensorboard.SummaryWriter`."""
    from lightning.pytorch.loggers import TensorBoardLogger

    return [logger.experiment for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]


def add_graph(writer: Any, pl_module: Any, input_shape: tuple[int, ...]) -> None:
    """Trace a copy of the network, uncompiled and in eval mode, on one sample of zeros."""
    try:
        with torch.random.fork_rng(), torch.no_grad():
            inputs = torch.zeros(1, *input_shape, device=pl_module.device)
            writer.add_graph(deepcopy(pl_module.model).eval(), inputs)
    except RuntimeError:  # a network that cannot be traced still trains
        print("The model's graph is not in TensorBoard: torch cannot trace this model")


def add_hyperparameters(writer: Any, hyperparameters: Mapping[str, Any], names: list[str]) -> None:
    """Add a row to TensorBoard's HPARAMS page, whose metrics are the last points of the curves named.

    `SummaryWriter.add_hparams` would write those points again, and to a separate run.
    """
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
    from torch.utils.tensorboard.summary import hparams

    values = {k: v if isinstance(v, bool | int | float | str) else str(v) for k, v in hyperparameters.items()}
    experiment, *others = hparams(values, {name: 0.0 for name in names if "/" in name})
    content = HParamsPluginData.FromString(experiment.value[0].metadata.plugin_data.content)
    for info in content.experiment.hparam_infos:  # TensorBoard shows at first what is marked as differing
        info.differs = info.name in FIRST
    experiment.value[0].metadata.plugin_data.content = content.SerializeToString()
    for summary in (experiment, *others):
        writer.file_writer.add_summary(summary)


def take_revision(run: Run) -> dict[Path, str]:
    """Return the commit of the code and what differs from it, by file; nothing outside a repository."""

    def git(*arguments: str) -> str | None:
        try:
            answer = subprocess.run(["git", "-C", run.source, *arguments], capture_output=True, check=True)
        except (OSError, subprocess.CalledProcessError):  # no git, no repository, no commit
            return None
        return answer.stdout.decode(errors="replace")

    commit, changes = git("rev-parse", "HEAD"), git("diff", "HEAD")
    if commit is None:
        return {}
    return {run.folder.revision: commit, run.folder.changes: changes or ""}
