"""The tutorial's line after each epoch, and on a terminal a bar that costs the loop nothing."""

import shutil
import sys
import time
from collections.abc import Mapping
from threading import Event, Thread

from lightning.pytorch import LightningModule, Trainer

from descent.callbacks.figures import Figures, title_of

WIDTH = 30  # of the bar, in characters


class Progress(Figures):
    """Prints `Epoch 3/10, Train Loss: 0.1234, Train Acc: 0.9876, Val Loss: 0.2345, Val Acc: 0.9765`.

    A thread draws the bar: it reads the trainer's own counters a few times a second, so a step does no work
    for it. Only the first process prints.

    Args:
        bar: whether to draw a bar while an epoch runs; only on a terminal.
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

    def on_figures(self, trainer: Trainer, epoch: int, figures: dict[str, float]) -> None:
        self._clear()
        print(describe_epoch(epoch, trainer.max_epochs, figures), flush=True)

    def _draw(self, trainer: Trainer) -> None:
        begun, epoch = time.monotonic(), -1
        while not self.stopped.wait(self.interval):
            if trainer.current_epoch != epoch:
                begun, epoch = time.monotonic(), trainer.current_epoch
            done = trainer.fit_loop.epoch_loop.batch_progress.current.completed
            rate = done / max(1e-9, time.monotonic() - begun)
            total = trainer.num_training_batches
            text = f"Epoch {epoch + 1} {draw_bar(done, total)} {done}/{total} {rate:.0f} batches/s"
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


def describe_epoch(epoch: int, epochs: int | None, figures: Mapping[str, float]) -> str:
    """Return the tutorial's line; it shows the number of epochs unless the run has no end."""
    head = f"Epoch {epoch}/{epochs}" if epochs is not None and epochs > 0 else f"Epoch {epoch}"
    shown = [f"{title_of(name)}: {value:.4f}" for name, value in figures.items() if name != "lr"]
    return ", ".join([head, *shown])


def draw_bar(done: int, total: float) -> str:
    """Return `━━━━━━─────`, filled to done/total, or empty if the total is not known."""
    filled = int(WIDTH * min(1.0, done / total)) if 0 < total < float("inf") else 0
    return "━" * filled + "─" * (WIDTH - filled)
