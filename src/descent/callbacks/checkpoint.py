"""Keeps the point from which a run can resume exactly, also when a signal ends it."""

import re
import time
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint as LightningCheckpoint
from lightning.pytorch.callbacks import StochasticWeightAveraging
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from descent.errors import ConfigError, Stopped, is_of_libraries, require
from descent.run.checkpoints import rotate
from descent.run.folder import RunFolder, event_sizes
from descent.run.random_state import put_back_random_state, take_random_state
from descent.run.signals import Signals, requeue

SHARE = 0.01  # of the time that saving may take with every=auto
SHORTEST = 2.0  # seconds between two saves with every=auto
AGREE = 32  # batches between two moments at which several processes agree on saving


class Checkpoint(LightningCheckpoint):
    """Writes `last.ckpt`, from which a run resumes exactly; `previous.ckpt` is the one before.

    Lightning saves in the middle of its own book-keeping, and when it resumes it has to guess how far that
    had come. This callback saves at one point only, between two optimizer steps: at the start of a batch,
    before anything is computed for it. A resumed run puts back, at that same point, everything that was
    there when it was saved: the loops' counters, the random states, the sums of the epoch's metrics, the
    logged values. The end of an epoch is no special case: it is the start of the next epoch's first batch.

    Args:
        every: how much work a kill may cost: "100 steps" (of the optimizer), "1 epoch", "10 minutes", or
            "auto": as often as saving takes at most 1 % of the time, but not within 2 seconds.
    """

    folder: RunFolder

    def __init__(self, every: str) -> None:
        self.number, self.unit = parse_interval(every)
        self.signals = Signals()
        self.parts: dict[str, Any] | None = None  # of the checkpoint, until they are put back
        self.saved_at, self.saved_step, self.cost = 0.0, -1, 0.0
        self.ended = False
        self.restores = False  # while a checkpoint is put back: a library's exception is about its content

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.folder = RunFolder(trainer.default_root_dir)
        self.restores = True

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.restores = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.signals.catch()
        self.saved_at, self.saved_step = time.monotonic(), trainer.global_step
        for callback in list_inexact(trainer):
            say(trainer, f"This run cannot be resumed: {callback} begins anew in the middle of an epoch")
        loader: Any = trainer.train_dataloader
        if not hasattr(loader, "start_at"):
            name = type(loader).__name__
            say(trainer, f"A resumed run will differ: {name} cannot begin in the middle of an epoch")
        elif self.parts is not None:
            loader.start_at(self.parts["batch"])
            trainer.accumulate_grad_batches = self.parts["accumulate"]
        if self.parts is not None and self.parts["ended"]:
            end_restart(trainer)  # with `max_steps`, Lightning would go on in the epoch that has ended

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if self.parts is not None:
            self._put_back(trainer, pl_module, self.parts)
            self.parts, self.restores = None, False
        elif batch_idx % trainer.accumulate_grad_batches == 0:  # otherwise gradients would be lost
            stop, due = self.signals.received is not None, self._is_due(trainer, batch_idx)
            if trainer.world_size > 1:
                stop, due = self._agree(trainer, batch_idx, stop, due)
            if stop or due:
                self._save(trainer)
            if stop:
                self._leave(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.ended = True
        self._save(trainer)
        if trainer.strategy.reduce_boolean_decision(self.signals.received is not None, all=False):
            self._leave(trainer)
        self.signals.release()

    def on_exception(self, trainer: Trainer, pl_module: Any, exception: BaseException) -> None:
        self.signals.release()
        told = isinstance(exception, ConfigError | Stopped | MisconfigurationException)
        told = told or not isinstance(exception, Exception)
        if self.restores and trainer.ckpt_path and not told and is_of_libraries(exception):
            words = " ".join(str(exception).split())[:300]
            expected = f"checkpoints of this run, which hold its state ({type(exception).__name__}: {words})"
            raise ConfigError("resume", str(self.folder), expected=expected) from exception

    def on_save_checkpoint(self, trainer: Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        progress = trainer.fit_loop.epoch_loop.batch_progress.current
        mine = {"random": take_random_state(), "epoch": pl_module.epoch_state()}
        checkpoint["parts"] = {
            "ended": self.ended,  # after the last epoch, and not at the start of a batch
            "batch": 0 if self.ended else progress.completed,
            "processes": gather(mine, trainer.world_size),
            "logged": {name: value.cpu() for name, value in trainer.callback_metrics.items()},
            "should_stop": trainer.should_stop,
            "accumulate": trainer.accumulate_grad_batches,
            "whole": progress.completed in (0, trainer.num_training_batches),  # no epoch was cut short
            "folder": event_sizes(self.folder),
        }

    def on_load_checkpoint(self, trainer: Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        if trainer.state.fn == TrainerFn.FITTING and "parts" in checkpoint:
            self.parts = {**checkpoint["parts"], "loops": checkpoint["loops"]["fit_loop"]}
            for callback in list_inexact(trainer):
                raise ConfigError("callbacks", expected=f"other ones than {callback}, which begins anew")
            # a run that early stopping has ended stays ended
            trainer.should_stop = self.parts["ended"] and self.parts["should_stop"]
            further = trainer.max_steps == -1 or trainer.max_steps > checkpoint["global_step"]
            cut_short = self.parts["ended"] and not self.parts["whole"] and not self.parts["should_stop"]
            if cut_short and further:
                expected = f"{checkpoint['global_step']}, for the run has ended there, within an epoch"
                raise ConfigError("trainer.max_steps", trainer.max_steps, expected=expected)

    def _is_due(self, trainer: Trainer, batch_idx: int) -> bool:
        if self.unit == "auto":
            return time.monotonic() - self.saved_at > max(SHORTEST, self.cost / SHARE)
        if self.unit == "minute":
            return time.monotonic() - self.saved_at > 60 * self.number
        if self.unit == "epoch":
            first = batch_idx == 0 and trainer.current_epoch > 0
            return first and trainer.current_epoch % self.number == 0
        step = trainer.global_step
        return step % self.number == 0 and step != self.saved_step

    def _agree(self, trainer: Trainer, batch_idx: int, stop: bool, due: bool) -> tuple[bool, bool]:
        """Decide the same in every process, because clocks differ and a signal may reach only one."""
        counted = self.unit in ("step", "epoch")  # then `due` is the same everywhere
        if batch_idx % (AGREE * trainer.accumulate_grad_batches):
            return False, due and counted
        decide = trainer.strategy.reduce_boolean_decision
        return decide(stop, all=False), due if counted else decide(due, all=False)

    def _save(self, trainer: Trainer) -> None:
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        begun = time.monotonic()
        trainer.save_checkpoint(self.folder.new, weights_only=False)
        if trainer.is_global_zero:
            rotate(self.folder.new, self.folder.last, self.folder.previous)
        self.saved_at, self.saved_step = time.monotonic(), trainer.global_step
        self.cost = self.saved_at - begun

    def _put_back(self, trainer: Trainer, pl_module: Any, parts: dict[str, Any]) -> None:
        """Put everything back as it was at this same point when the checkpoint was saved."""
        processes = parts["processes"]
        if len(processes) != trainer.world_size and not trainer.is_global_zero:
            raise Stopped("", code=2)
        if len(processes) != trainer.world_size:
            expected = f"{len(processes)} processes in all, as in the run that is resumed"
            raise ConfigError("trainer.devices", trainer.world_size, expected=expected)
        mine = processes[trainer.global_rank]
        if parts["ended"]:  # this is the first batch of a further epoch
            pl_module.samples_seen = mine["epoch"]["samples_seen"]
            put_back_random_state(mine["random"])
            return
        trainer.fit_loop.load_state_dict(parts["loops"])
        end_restart(trainer)
        logged = {name: value.to(pl_module.device) for name, value in parts["logged"].items()}
        trainer.callback_metrics.update(logged)
        trainer.should_stop = parts["should_stop"]
        pl_module.load_epoch_state(mine["epoch"])
        put_back_random_state(mine["random"])

    def _leave(self, trainer: Trainer) -> None:
        number = self.signals.received or 15  # 15 if the signal has reached another process
        if not trainer.is_global_zero:
            raise Stopped("", code=128 + number)
        text = f"Stopped and saved in epoch {trainer.current_epoch + 1}, after step {trainer.global_step}. "
        if self.signals.asks_to_requeue():
            text += requeue() + ". "
        raise Stopped(text + self.folder.advise(), code=128 + number)


def end_restart(trainer: Trainer) -> None:
    """Tell Lightning's loops that they are no longer restarting."""
    for loop in (trainer.fit_loop, trainer.fit_loop.epoch_loop, trainer.fit_loop.epoch_loop.val_loop):
        loop.on_iteration_done()


def list_inexact(trainer: Trainer) -> list[str]:
    """List the callbacks that act at an epoch's start, because a run may resume in the middle of an epoch."""
    kinds = (StochasticWeightAveraging,)
    return [type(callback).__name__ for callback in trainer.callbacks if isinstance(callback, kinds)]  # type: ignore[attr-defined]


def parse_interval(every: str) -> tuple[int, str]:
    """Read "100 steps" as `(100, "step")`, and "auto" as `(0, "auto")`."""
    match = re.fullmatch(r"(\d+) ?(step|epoch|minute)s?", every)
    valid = every == "auto" or (match is not None and int(match[1]) > 0)
    require(valid, "every", every, "auto, or as in 100steps, 1epoch or 10minutes")
    return (int(match[1]), match[2]) if match else (0, "auto")


def gather(value: Any, world_size: int) -> list[Any]:
    """Return the values of all processes, in the order of their ranks."""
    if world_size == 1:
        return [value]
    values: list[Any] = [None] * world_size
    torch.distributed.all_gather_object(values, value)
    return values


def say(trainer: Trainer, text: str) -> None:
    """Print a text, in the first process only."""
    if trainer.is_global_zero:
        print(text, flush=True)
