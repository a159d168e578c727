"""The tutorial's line after each epoch, and on a terminal a bar that costs the loop nothing."""

import shutil
import sys
import time
from collections.abc import Mapping
from threading import Event, Thread

from lightning.pytorch import LightningModule, Trainer

from descent.callbacks.figures import NAMES, Figures


class Progress(Figures):
    """Prints `Epoch 3/10, Train Loss: 0.1234, Train Acc: 0.9876, Val Loss: 0.2345, Val Acc: 0.9765`.

    The bar is drawn by a thread that looks at the trainer's own counters a few times a second, so a step
    does nothing for it. Only the first process prints.

    Args:
        bar: draw a bar while an epoch runs, if the output is a terminal.
        interval: seconds between two drawings of the bar.
    """

    def __init__(self, bar: bool, interval: float) -> None:
        super().__init__()
        self.bar, self.interval = bar, interval
        self.stopped = Event()
        self.thread: Thread | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero and self.bar and sys.stdout.isatty():
            self.stopped.clear()
            self.thread = Thread(target=self._draw, args=(trainer,), daemon=True)
            self.thread.start()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._stop()
        super().on_train_end(trainer, pl_module)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._stop()

    def on_figures(
        self, trainer: Trainer, pl_module: LightningModule, epoch: int, figures: dict[str, float]
    ) -> None:
        self._clear()
        print(epoch_line(epoch, trainer.max_epochs, figures), flush=True)

    def _draw(self, trainer: Trainer) -> None:
        begun, epoch = time.monotonic(), -1
        while not self.stopped.wait(self.interval):
            if trainer.current_epoch != epoch:
                begun, epoch = time.monotonic(), trainer.current_epoch
            done = trainer.fit_loop.epoch_loop.batch_progress.current.completed
            rate = done / max(1e-9, time.monotonic() - begun)
            total = trainer.num_training_batches
            text = f"Epoch {epoch + 1} {bar(done, total)} {done}/{total} {rate:.0f} batches/s"
            sys.stdout.write("\r\x1b[2K" + text[: shutil.get_terminal_size().columns - 1])
            sys.stdout.flush()

    def _stop(self) -> None:
        if self.thread is not None:
            self.stopped.set()
            self.thread.join()
            self.thread = None
            self._clear()

    def _clear(self) -> None:
        if sys.stdout.isatty():
            sys.stdout.write("\r\x1b[2K")


def epoch_line(epoch: int, epochs: int | None, figures: Mapping[str, float]) -> str:
    """The tutorial's line; figures that are not there are left out, and so is an endless number of epochs."""
    parts = [f"Epoch {epoch}/{epochs}" if epochs is not None and epochs > 0 else f"Epoch {epoch}"]
    for stage in ("train", "val"):
        for key, value in figures.items():
            if key.startswith(f"{stage}/"):
                name = key.removeprefix(f"{stage}/")
                parts.append(f"{stage.capitalize()} {NAMES.get(name, name)}: {value:.4f}")
    return ", ".join(parts)


def bar(done: int, total: float, width: int = 30) -> str:
    """`━━━━━━─────`, filled to done/total; empty where the total is not known."""
    filled = int(width * min(1.0, done / total)) if 0 < total < float("inf") else 0
    return "━" * filled + "─" * (width - filled)
