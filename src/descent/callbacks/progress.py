"""The tutorial's line after each epoch, and a bar while a long one runs."""

import shutil
import sys
import time
from collections.abc import Mapping
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from torch import Tensor
from tqdm import tqdm

from descent.callbacks.figures import list_figures, title_of

LONG = 0.5  # seconds: an epoch that takes longer gets a bar
BAR = "{desc} {percentage:3.0f}%|{bar:20}| {n_fmt}/{total_fmt}, {remaining} left{postfix}"


class Progress(Checkpoint):  # Lightning calls it last, when everything that an epoch logs is there
    """Prints `Epoch 3/10, Train Loss: 0.1234, Train Acc: 0.9876, Val Loss: 0.2345, Val Acc: 0.9765`.

    If that is wider than the terminal, it prints the same in columns. Only the first process prints.

    Args:
        bar: whether to show the progress of a long epoch: a bar on a terminal, otherwise a line per minute.
        interval: seconds between updates of the bar.
    """

    state_key = "progress"

    def __init__(self, bar: bool, interval: float) -> None:
        self.shown, self.interval = bar, interval
        self.bar: Any = None
        self.begun = self.looked = 0.0
        self.header: list[str] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.shown = self.shown and trainer.is_global_zero
        self.begun = self.looked = time.monotonic()  # also of an epoch that is continued
        self.interval = self.interval if sys.stdout.isatty() else 60.0

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.begun = self.looked = time.monotonic()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self.shown and time.monotonic() - self.looked > self.interval:
            self.looked = time.monotonic()
            if self.looked - self.begun > LONG:
                self._show(trainer, batch_idx + 1, outputs)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._close()
        if trainer.is_global_zero:
            epoch, epochs = trainer.current_epoch + 1, trainer.max_epochs
            width = shutil.get_terminal_size().columns if sys.stdout.isatty() else sys.maxsize
            line = describe_epoch(epoch, epochs, figures := list_figures(trainer))
            if len(line) > width:
                line, header = lay_out(count(epoch, epochs), figures, width)
                if header != self.header:
                    print("\n".join(header))
                self.header = header
            print(line, flush=True)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._close()

    def _show(self, trainer: Trainer, done: int, outputs: Any) -> None:
        total = trainer.num_training_batches
        name = f"Epoch {count(trainer.current_epoch + 1, trainer.max_epochs)}"
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else None
        # on a GPU, reading the loss would make the host wait
        text = f"loss {loss.item():.4f}" if isinstance(loss, Tensor) and loss.device.type == "cpu" else ""
        if not sys.stdout.isatty():
            of = f"/{total:,}" if total != float("inf") else ""
            print(f"{name}, batch {done:,}{of}{', ' * bool(text)}{text}", flush=True)
            return
        if self.bar is None:
            whole = None if total == float("inf") else int(total)
            style: dict[str, Any] = {"bar_format": BAR} if whole else {}
            self.bar = tqdm(total=whole, desc=name, leave=False, file=sys.stdout, dynamic_ncols=True, **style)
            self.bar.start_t -= time.monotonic() - self.begun  # the epoch began before there was a bar
        self.bar.set_postfix_str(text, refresh=False)
        self.bar.update(done - self.bar.n)

    def _close(self) -> None:
        if self.bar is not None:
            self.bar.close()
            self.bar = None


def count(epoch: int, epochs: int | None) -> str:
    """Return "3/10", or "3" if a run has no end."""
    return f"{epoch}/{epochs}" if epochs is not None and epochs > 0 else str(epoch)


def describe_epoch(epoch: int, epochs: int | None, figures: Mapping[str, float]) -> str:
    """Return the tutorial's line; it shows the number of epochs unless the run has no end."""
    shown = [f"{title_of(name)}: {value:.4f}" for name, value in figures.items() if name != "lr"]
    return ", ".join([f"Epoch {count(epoch, epochs)}", *shown])


def lay_out(epoch: str, figures: Mapping[str, float], width: int) -> tuple[str, list[str]]:
    """Return the figures in fixed columns, and the columns' header, both at most `width` wide.

    Figures that do not fit in one line get one line per stage, such as train and val.
    """
    figures = {name: value for name, value in figures.items() if name != "lr"}
    titles = [title_of(name) for name in figures]
    cells = [f"{value:.4f}" for value in figures.values()]
    widths = [max(8, len(title)) for title in titles]
    if sum(widths) + 2 * len(widths) + 8 <= width:
        header = "Epoch".ljust(8) + "".join(f"  {t:>{w}}" for t, w in zip(titles, widths, strict=True))
        line = epoch.ljust(8) + "".join(f"  {c:>{w}}" for c, w in zip(cells, widths, strict=True))
        return line, [header]
    stages = list(dict.fromkeys(name.partition("/")[0] for name in figures))
    names = list(dict.fromkeys(name.partition("/")[2] or name for name in figures))
    size = max(6, (width - 16) // max(1, len(names)) - 1)
    header = "Epoch".ljust(16) + "".join(f" {title_of(name)[:size]:>{size}}" for name in names)
    lines = []
    for number, stage in enumerate(stages):
        values = [figures.get(f"{stage}/{name}", figures.get(name)) for name in names]
        row = "".join(f" {'' if value is None else f'{value:.4f}':>{size}}" for value in values)
        lines.append(f"{'' if number else epoch:<8}{stage[:7]:<8}{row}")
    return "\n".join(lines), [header]
