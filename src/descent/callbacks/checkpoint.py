"""Saves the point from which a run can resume exactly, even when a signal ends it."""

import re
import signal
import time
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint as LightningCheckpoint
from lightning.pytorch.trainer.states import TrainerFn

from descent.data.described import describe_data
from descent.errors import ConfigError, Stopped, require
from descent.run.folder import RunFolder
from descent.run.random_state import take_random_state
from descent.run.signals import Signals

if TYPE_CHECKING:
    from descent.callbacks.restart import Restart

SHARE = 0.01  # of the time: at most this much is spent on saving with every=auto
SHORTEST = 2.0  # seconds between saves with every=auto
AGREE = 32  # batches between the moments when several processes agree on saving


class Checkpoint(LightningCheckpoint):
    """Writes `last.ckpt`, from which a run resumes exactly; `previous.ckpt` is the one before.

    Lightning saves in the middle of its own bookkeeping, so on resuming it has to guess how far it had
    come. This callback saves at one point only: at the start of a batch, between two optimizer steps. A
    resumed run is put back to that same point. The end of an epoch is the start of the next epoch's batches.

    Saving within an epoch requires a module with `epoch_state()` and a loader with `start_at(batch)`, or with
    `state_dict()` as in torchdata's StatefulDataLoader. Others are saved only at the start of an epoch.

    Args:
        every: how much work a kill may cost: "100 steps" (of the optimizer), "1 epoch", "10 minutes", or
            "auto": as often as fits in 1 % of the time, and at least 2 seconds apart.
    """

    state_key = "checkpoint"

    def __init__(self, every: str) -> None:
        self.number, self.unit = parse_interval(every)
        self.pause = 60.0 * self.number if self.unit == "minute" else SHORTEST  # seconds between saves
        self.signals = Signals()
        self.restart: Restart | None = None  # what a resumed run has not restored yet
        self.saved_at, self.saved_step = 0.0, -1
        self.within = True  # whether a run can resume within an epoch
        self.stateful = False  # whether it does so by the loader's state
        self.loaded: Any = None  # the loader's state before it fetched the current batch
        self.begun: dict[str, Any] = {}  # the random state at the beginning of the epoch
        self.ended = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.folder = RunFolder(trainer.default_root_dir)

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        self.signals.catch()
        self.saved_at, self.saved_step = time.monotonic(), trainer.global_step
        loader: Any = trainer.train_dataloader
        starts = hasattr(loader, "start_at")
        # without a length, Lightning fetches one batch ahead
        sized = trainer.num_training_batches != float("inf")
        self.stateful = not starts and hasattr(loader, "load_state_dict") and sized
        self.within = (starts or self.stateful) and hasattr(pl_module, "epoch_state")
        if self.restart is not None:
            self.restart.begin(trainer, pl_module, loader)
        elif not self.within and trainer.max_epochs != 1 and trainer.is_global_zero:
            reason = f"{type(loader).__name__} cannot start in the middle"
            if starts or self.stateful:
                reason = "the module has no epoch_state"
            print(f"Checkpoints are written only at the start of an epoch, because {reason}", flush=True)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.restart is not None:
            self.restart.begin_epoch()
        self.begun = {} if self.within and not self.stateful else take_random_state()
        self.loaded = None

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if self.restart is not None:
            self.restart.put_back(trainer, pl_module)
            self.restart = None
        elif batch_idx % trainer.accumulate_grad_batches == 0:  # otherwise gradients would be lost
            stop, due = self._decide(trainer, batch_idx)
            if (stop or due) and (self.within or batch_idx == 0):
                self._save(trainer)
            if stop:
                self._leave(trainer)

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self.stateful and self.within:
            self.loaded = trainer.train_dataloader.state_dict()  # before Lightning fetches the next batch

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.fit_loop.epoch_loop.batch_progress.current.completed == 0:
            way = "such as by trainer.reload_dataloaders_every_n_epochs=1"
            raise ConfigError("data", expected=f"a training loader that can start again in each epoch, {way}")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.ended = True
        self._save(trainer)
        if trainer.strategy.reduce_boolean_decision(self.signals.received is not None, all=False):
            self._leave(trainer)
        self.signals.release()

    def on_exception(self, trainer: Trainer, pl_module: Any, exception: BaseException) -> None:
        self.signals.release()
        begun = self.saved_step >= 0 and self.restart is None
        if trainer.state.fn == TrainerFn.FITTING and trainer.ckpt_path is not None and not begun:
            from descent.explain import explain_loading

            explain_loading(exception, self.folder)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        progress = trainer.fit_loop.epoch_loop.batch_progress
        midway = progress.current.completed > 0 and not self.ended
        within = self.within and (midway or not self.stateful)
        mine: dict[str, Any] = {"random": take_random_state() if within or self.ended else self.begun}
        loops = checkpoint["loops"]["fit_loop"]["state_dict"]
        loops.pop("combined_loader", None)  # it is the state after the current batch was fetched
        if self.stateful and within:
            loops["combined_loader"] = [self.loaded]
        if hasattr(pl_module, "epoch_state"):
            mine["epoch"] = pl_module.epoch_state()
        processes = [mine] * trainer.world_size
        if trainer.world_size > 1:
            torch.distributed.all_gather_object(processes, mine)
        checkpoint["parts"] = {
            "at": str(self.folder.path),  # to translate paths in callbacks' states if the folder moves
            "ended": self.ended,  # saved after the last epoch, not at the start of a batch
            "within": within,
            "processes": processes,
            "logged": {name: value.cpu() for name, value in trainer.callback_metrics.items()},
            "should_stop": trainer.should_stop,
            "accumulate": trainer.accumulate_grad_batches,
            "folder": {name: file.stat().st_size for name, file in self.folder.events().items()},
        }
        checkpoint.update(describe_data(trainer))

    def on_load_checkpoint(self, trainer: Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        if trainer.state.fn == TrainerFn.FITTING:
            from descent.callbacks.restart import Restart

            self.restart = Restart(trainer, checkpoint, self.folder)

    def _decide(self, trainer: Trainer, batch_idx: int) -> tuple[bool, bool]:
        """Return whether to stop and whether to save, the same in every process of a run."""
        stop, timed = self.signals.received is not None, self.unit in ("auto", "minute")
        if timed:
            due = time.monotonic() - self.saved_at > self.pause
        elif self.unit == "step" and self.within:
            due = trainer.global_step % self.number == 0 and trainer.global_step != self.saved_step
        else:
            epochs = self.number if self.unit == "epoch" else 1
            due = batch_idx == 0 and trainer.current_epoch > 0 and trainer.current_epoch % epochs == 0
        if trainer.world_size > 1:  # clocks differ, and a signal may reach only one process
            decide = trainer.strategy.reduce_boolean_decision
            asks = batch_idx % (AGREE * trainer.accumulate_grad_batches) == 0
            stop = asks and decide(stop, all=False)
            due = asks and decide(due, all=False) if timed else due
        return stop, due

    def _save(self, trainer: Trainer) -> None:
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        begun = time.monotonic()
        trainer.save_checkpoint(self.folder.last, weights_only=False)
        self.saved_at, self.saved_step = time.monotonic(), trainer.global_step
        if self.unit == "auto":
            self.pause = max(SHORTEST, (self.saved_at - begun) / SHARE)

    def _leave(self, trainer: Trainer) -> None:
        number = self.signals.received or 15  # 15 if the signal has reached another process
        if not trainer.is_global_zero:
            raise Stopped("", code=128 + number)
        saved = "Stopped and saved" if self.saved_step == trainer.global_step else "Stopped"
        text = f"{saved} in epoch {trainer.current_epoch + 1}, after step {trainer.global_step}. "
        if signal.Signals(number).name == "SIGUSR1":  # the job's time is up
            from descent.run.slurm import requeue

            text += requeue() + ". "
        raise Stopped(text + self.folder.advise(), code=128 + number)


def parse_interval(every: str) -> tuple[int, str]:
    """Read "100 steps" as `(100, "step")`, and "auto" as `(0, "auto")`."""
    match = re.fullmatch(r"(\d+) ?(step|epoch|minute)s?", every)
    valid = every == "auto" or (match is not None and int(match[1]) > 0)
    require(valid, "every", every, "auto, or as in 100steps, 1epoch or 10minutes")
    return (int(match[1]), match[2]) if match else (0, "auto")
