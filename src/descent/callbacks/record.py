"""The files of a run's folder: what ran, on what, and what came of it."""

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

from descent.callbacks.figures import NAMES, Figures
from descent.files import write_atomically
from descent.machine import environment


class Record(Figures):
    """Writes the config, the environment and the code's revision at the start, `metrics.csv` after each
    epoch and `result.json` at the end; gives TensorBoard the config as text, the model's graph, and the
    hyperparameters beside the final metrics.

    Args:
        folder: of the run; exists.
        title: printed when training starts.
        files: texts to write at the start, by name, such as "config.yaml".
        hyperparameters: what TensorBoard compares runs by: flat, plain values.
        source: a folder of the repository whose revision and changes are recorded.
        input_shape: of one sample, for the model's graph.
    """

    def __init__(
        self,
        folder: Path,
        title: str,
        files: Mapping[str, str],
        hyperparameters: Mapping[str, Any],
        source: Path,
        input_shape: tuple[int, ...],
    ) -> None:
        super().__init__()
        self.folder, self.title, self.files, self.hyperparameters = folder, title, files, hyperparameters
        self.source, self.input_shape = source, input_shape
        self.rows: list[dict[str, float]] = []
        self.begun = 0.0
        self.result: dict[str, Any] = {}
        self.seconds = 0.0  # of training before this process, in a resumed run
        self.resumed = False

    @rank_zero_only
    def say(self, text: str) -> None:
        """Print, in the first process."""
        print(text, flush=True)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        for logger in trainer.loggers:
            logger.log_hyperparams(dict(self.hyperparameters))

    def state_dict(self) -> dict[str, Any]:
        seconds = self.seconds + time.perf_counter() - self.begun
        return {**super().state_dict(), "rows": self.rows, "result": self.result, "seconds": seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self.rows, self.result, self.seconds = (state_dict[name] for name in ("rows", "result", "seconds"))
        self.resumed = True
        self._write_rows()  # without those of after the checkpoint, which will come again

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero and not self.resumed:
            files = {
                **self.files,
                "environment.json": json.dumps(environment(), indent=2),
                **revision(self.source),
            }
            for name, text in files.items():
                (self.folder / name).write_text(text, encoding="utf-8")
            for writer in writers(trainer):
                for name, text in self.files.items():
                    writer.add_text(name, "```yaml\n" + text + "\n```")
                add_graph(writer, pl_module, self.input_shape)
        self.say(self.title)
        self.begun = time.perf_counter()

    def on_figures(
        self, trainer: Trainer, pl_module: LightningModule, epoch: int, figures: dict[str, float]
    ) -> None:
        self.rows.append({"epoch": epoch, **figures})
        # a column that comes late, such as validation every few epochs, needs a new header
        late = [name for name in figures if name not in self.rows[0]]
        if late or len(self.rows) == 1:
            self.rows[0] |= dict.fromkeys(late, float("nan"))
            self._write_rows()
        else:
            with (self.folder / "metrics.csv").open("a", newline="", encoding="utf-8") as file:
                csv.DictWriter(file, list(self.rows[0])).writerow(self.rows[-1])

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        seconds = self.seconds + time.perf_counter() - self.begun
        super().on_train_end(trainer, pl_module)
        if not self.rows:
            return
        assert isinstance(pl_module.samples_seen, int)
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
        self._write(trainer)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero and self.result:
            figures = trainer.callback_metrics
            self.result["test"] = {n: float(f"{figures[n]:.7g}") for n in figures if n.startswith("test/")}
            self._write(trainer)
            for writer in writers(trainer):
                add_hyperparameters(writer, self.hyperparameters, [*self.rows[-1], *self.result["test"]])

    def summary(self) -> str:
        """What came of the run, where it is, and how to look at it."""
        lines = []
        if figures := self.result.get("test"):
            words = [f"Test {NAMES.get(k[5:], k[5:])}: {v:.4f}" for k, v in figures.items()]
            best = self.result.get("best")
            lines.append(
                ", ".join(words) + (f" (the best checkpoint, of epoch {best['epoch']})" if best else "")
            )
        if self.result:
            speed = f"{self.result['seconds']:.1f} s, {self.result['samples_per_second']:,.0f} samples/s"
            epochs = self.result["epochs"]
            lines.append(f"Trained {epochs} epoch{'s' if epochs > 1 else ''} in {speed}")
        lines.append(f"Run folder:  {os.path.relpath(self.folder)}")
        if any(self.folder.glob("events*")):
            uv = "uv run " if "UV" in os.environ else ""
            lines.append(f"TensorBoard: {uv}tensorboard --logdir {os.path.relpath(self.folder.parent)}")
        return "\n".join(lines)

    @rank_zero_only
    def _write_rows(self) -> None:
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, list(self.rows[0]) if self.rows else [])
        writer.writeheader()
        writer.writerows(self.rows)
        write_atomically(self.folder / "metrics.csv", lambda file: file.write(text.getvalue().encode()))

    def _write(self, trainer: Trainer) -> None:
        if not trainer.is_global_zero:
            return
        text = json.dumps(self.result, indent=2) + "\n"
        write_atomically(self.folder / "result.json", lambda file: file.write(text.encode()))


def writers(trainer: Trainer) -> list[Any]:
    """The TensorBoard writers of a trainer: `torch.utils.tensorboard.SummaryWriter`s."""
    from lightning.pytorch.loggers import TensorBoardLogger

    return [logger.experiment for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]


def add_graph(writer: Any, pl_module: LightningModule, input_shape: tuple[int, ...]) -> None:
    """Trace a copy of the network, uncompiled and in eval mode, on one sample of zeros."""
    model = pl_module.model
    assert isinstance(model, torch.nn.Module)
    try:
        with torch.random.fork_rng(), torch.no_grad():
            inputs = torch.zeros(1, *input_shape, device=pl_module.device)
            writer.add_graph(deepcopy(model).eval(), inputs)
    except RuntimeError:  # a network that can not be traced still trains
        print("The model's graph is not in TensorBoard: torch can not trace this model")


def add_hyperparameters(writer: Any, hyperparameters: Mapping[str, Any], names: list[str]) -> None:
    """A row of TensorBoard's HPARAMS page, whose metrics are the last points of the curves of these names.

    `SummaryWriter.add_hparams` would write those points again, and to a run of its own.
    """
    from torch.utils.tensorboard.summary import hparams

    values = {k: v if isinstance(v, bool | int | float | str) else str(v) for k, v in hyperparameters.items()}
    for summary in hparams(values, {name: 0.0 for name in names if "/" in name}):
        writer.file_writer.add_summary(summary)


def revision(source: Path) -> dict[str, str]:
    """`git.txt`, the commit, and `git.diff`, what differs from it; empty outside a repository."""

    def git(*arguments: str) -> str | None:
        try:
            answer = subprocess.run(["git", "-C", source, *arguments], capture_output=True, check=True)
        except (OSError, subprocess.CalledProcessError):  # no git, no repository, no commit
            return None
        return answer.stdout.decode(errors="replace")

    commit, diff = git("rev-parse", "HEAD"), git("diff", "HEAD")
    return {} if commit is None else {"git.txt": commit, "git.diff": diff or ""}
