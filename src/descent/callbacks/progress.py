"""The tutorial's line after each epoch, and a bar while a long one runs."""

import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from torch import Tensor
from tqdm import tqdm

from descent.callbacks.figures import title_of
from descent.callbacks.recorder import Recorder

CLEAR = "\r\033[K"  # empties a terminal's line


class Progress(Checkpoint):  # Lightning calls it last, when the recorder has recorded the epoch
    """Prints `Epoch 3/10, Train Loss: 0.1234, Train Acc: 0.9876, Val Loss: 0.2345, Val Acc: 0.9765`.

    If that is wider than the terminal, it prints columns, with a line for each stage. Only the first process
    prints.

    Args:
        bar: whether to show the progress of a long epoch: a bar on a terminal, otherwise a line per minute.
        interval: seconds between updates of the bar.
    """

    def __init__(self, bar: bool, interval: float) -> None:
        self.bar, self.interval = bar, interval
        self.begun = self.looked = 0.0
        self.drawn = False  # whether a bar is on the terminal
        self.header = ""  # of the columns, as printed last

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.bar = self.bar and trainer.is_global_zero
        self.interval = self.interval if sys.stdout.isatty() else 60.0

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.begun = self.looked = time.monotonic()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self.bar and time.monotonic() - self.looked > self.interval:
            self.looked = time.monotonic()
            self._show(trainer, batch_idx + 1, outputs)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._clear()
        if trainer.is_global_zero:
            (row,) = (one.rows[-1] for one in trainer.callbacks if isinstance(one, Recorder))  # type: ignore[attr-defined]
            figures = {name: row[name] for name in row if name not in ("epoch", "step", "lr")}
            parts = [name_epoch(trainer), *(f"{title_of(n)}: {value:.4f}" for n, value in figures.items())]
            line, width = ", ".join(parts), shutil.get_terminal_size().columns
            if sys.stdout.isatty() and len(line) > width:
                widest = len(f"Epoch {trainer.max_epochs}/{trainer.max_epochs}")  # the columns stay in place
                header, line = lay_out(parts[0].ljust(widest), figures, width)
                if header != self.header:
                    print(header)
                self.header = header
            print(line, flush=True)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._clear()

    def _show(self, trainer: Trainer, done: int, outputs: Any) -> None:
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else None
        # on a GPU, reading the loss would make the host wait
        text = f"loss {loss.item():.4f}" if isinstance(loss, Tensor) and loss.device.type == "cpu" else ""
        total, seconds = trainer.num_training_batches, time.monotonic() - self.begun
        whole = 0 if total == float("inf") else total  # 0 stands for unknown
        self.drawn = sys.stdout.isatty()
        width = shutil.get_terminal_size().columns if self.drawn else None
        line = tqdm.format_meter(done, whole, seconds, width, name_epoch(trainer), postfix=text)
        print(f"{CLEAR}{line}" if self.drawn else line, end="" if self.drawn else "\n", flush=True)

    def _clear(self) -> None:
        if self.drawn:
            print(CLEAR, end="", flush=True)
            self.drawn = False


def name_epoch(trainer: Trainer) -> str:
    """Return "Epoch 3/10", or "Epoch 3" if a run has no end."""
    of = f"/{trainer.max_epochs}" if trainer.max_epochs is not None and trainer.max_epochs > 0 else ""
    return f"Epoch {trainer.current_epoch + 1}{of}"


def lay_out(epoch: str, figures: Mapping[str, float], width: int) -> tuple[str, str]:
    """Return a header, and the figures in fixed columns: one per metric, with a line for each stage."""
    stages = dict.fromkeys(name.rpartition("/")[0] for name in figures)
    metrics = dict.fromkeys(name.rpartition("/")[2] for name in figures)
    words = [title_of(metric).split("_") for metric in metrics]  # a word a line, so that none is cut
    sizes, room = [max(7, *map(len, each)) for each in words], width - len(epoch) - 7
    if sum(sizes) + len(sizes) > room:
        sizes = [max(6, room // len(sizes) - 1)] * len(sizes)
    depth = max(map(len, words))
    rows = zip(*([""] * (depth - len(each)) + each for each in words), strict=True)
    header = "\n".join(" " * (len(epoch) + 7) + join_cells(row, sizes) for row in rows)
    lines: list[str] = []
    for stage in stages:
        values = [figures.get(f"{stage}/{metric}" if stage else metric) for metric in metrics]
        cells = join_cells(["" if value is None else f"{value:.4f}" for value in values], sizes)
        lines.append(f"{'' if lines else epoch:<{len(epoch)}} {stage[:6]:<6}{cells}")
    return header, "\n".join(lines)


def join_cells(texts: Sequence[str], sizes: Sequence[int]) -> str:
    """Return texts at the right of columns of these sizes; a figure is never cut."""
    return "".join(
        f" {text if '.' in text else text[:size]:>{size}}" for text, size in zip(texts, sizes, strict=True)
    )
