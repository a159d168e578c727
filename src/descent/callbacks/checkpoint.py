"""Saves the point from which a run can resume exactly, even when a signal ends it."""

import re
import signal
import time
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint as LightningCheckpoint
from lightning.pytorch.callbacks import StochasticWeightAveraging
from lightning.pytorch.trainer.states import TrainerFn

from descent.data.described import describe_data
from descent.errors import ConfigError, Stopped, first_line, is_of_libraries, require
from descent.run.folder import RunFolder, list_sizes, move
from descent.run.random_state import put_back_random_state, take_random_state
from descent.run.signals import Signals

SHARE = 0.01  # of the time: at most this much is spent on saving with every=auto
SHORTEST = 2.0  # seconds between saves with every=auto
AGREE = 32  # batches between the moments when several processes agree on saving


class Checkpoint(LightningCheckpoint):
    """Writes `last.ckpt`, from which a run resumes exactly; `previous.ckpt` is the one before.

    Lightning saves in the middle of its own bookkeeping, so on resuming it has to guess how far it had
    come. This callback saves at one point only, between two optimizer steps: at the start of a batch,
    before anything is computed for it. A resumed run restores everything at that same point: the loops'
    counters, the random states, the sums of the epoch's metrics, the logged values. The end of an epoch is
    not a special case: it is the start of the next epoch's first batch.

    Saving within an epoch requires a module with `epoch_state()` and a loader that can start in the middle:
    by `start_at(batch)`, or by `state_dict()` like torchdata's StatefulDataLoader. With others, a run is
    saved, and resumes just as exactly, only at the start of an epoch.

    Args:
        every: how much work a kill may cost: "100 steps" (of the optimizer), "1 epoch", "10 minutes", or
            "auto": as often as takes at most 1 % of the time, and at least 2 seconds apart.
    """

    state_key = "checkpoint"
    folder: RunFolder

    def __init__(self, every: str) -> None:
        self.number, self.unit = parse_interval(every)
        self.signals = Signals()
        self.parts: dict[str, Any] | None = None  # of the checkpoint, until they are restored
        self.saved_at, self.saved_step, self.cost = 0.0, -1, 0.0
        self.within = True  # whether a run can resume within an epoch
        self.stateful: Any = None  # the loader, if it has a state
        self.loaded: Any = None  # the loader's state before it fetched the current batch
        self.begun: dict[str, Any] = {}  # the random state at the beginning of the epoch
        self.going = self.ended = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.folder = RunFolder(trainer.default_root_dir)

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        self.signals.catch()
        self.saved_at, self.saved_step = time.monotonic(), trainer.global_step
        for callback in list_inexact(trainer):
            say(trainer, f"This run cannot be resumed: {callback} begins anew in the middle of an epoch")
        loader: Any = trainer.train_dataloader
        steady = hasattr(loader, "start_at")
        if not steady and hasattr(loader, "load_state_dict") and trainer.num_training_batches != float("inf"):
            self.stateful = loader  # without a length, Lightning fetches one batch ahead
        reason = "" if steady or self.stateful else f"{type(loader).__name__} cannot begin in the middle"
        reason = reason or ("" if hasattr(pl_module, "epoch_state") else "the module has no epoch_state")
        self.within = not reason
        if reason and self.parts is None and trainer.max_epochs != 1:
            say(trainer, f"Checkpoints are written at the beginnings of epochs, because {reason}")
        if self.parts is not None:
            if self.parts["within"] and steady:
                loader.start_at(self.parts["batch"])
            trainer.accumulate_grad_batches = self.parts["accumulate"]
            if self.parts["ended"] or not self.parts["within"]:
                end_restart(trainer)  # otherwise Lightning would continue in the middle of an epoch
            else:
                for other in trainer.callbacks:  # type: ignore[attr-defined]
                    if other is not self:  # Lightning skips this when an epoch is continued
                        other.on_train_epoch_start(trainer, pl_module)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.parts is not None and not self.parts["within"]:
            # Lightning now recreates the loader's iterator, from the same random state as before
            put_back_random_state(self._find_mine(trainer, self.parts)["random"])
        self.begun = {} if self.within and not self.stateful else take_random_state()
        self.loaded = None

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if self.parts is not None:
            self._put_back(trainer, pl_module, self.parts)
            self.parts = None
        elif batch_idx % trainer.accumulate_grad_batches == 0:  # otherwise gradients would be lost
            stop, due = self.signals.received is not None, self._is_due(trainer, batch_idx)
            if trainer.world_size > 1:
                stop, due = self._agree(trainer, batch_idx, stop, due)
            if (stop or due) and (self.within or batch_idx == 0):
                self._save(trainer)
            if stop:
                self._leave(trainer)
        self.going = True

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self.stateful is not None and self.within:
            self.loaded = (
                self.stateful.state_dict()
            )  # now, because the next batch is fetched before it starts

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.ended = True
        self._save(trainer)
        if trainer.strategy.reduce_boolean_decision(self.signals.received is not None, all=False):
            self._leave(trainer)
        self.signals.release()

    def on_exception(self, trainer: Trainer, pl_module: Any, exception: BaseException) -> None:
        self.signals.release()
        plain = isinstance(exception, Exception) and not isinstance(exception, ConfigError | Stopped)
        resumes = trainer.state.fn == TrainerFn.FITTING and trainer.ckpt_path is not None and not self.going
        if resumes and plain and is_of_libraries(exception):
            reason = f"{type(exception).__name__}: {first_line(exception)[:300]}"
            expected = f"checkpoints of this run, which contain its state ({reason})"
            raise ConfigError("resume", str(self.folder), expected=expected) from exception

    def on_save_checkpoint(self, trainer: Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        progress = trainer.fit_loop.epoch_loop.batch_progress
        batch = 0 if self.ended else progress.current.completed
        within = self.within and (self.stateful is None or batch > 0)
        mine: dict[str, Any] = {"random": take_random_state() if within or self.ended else self.begun}
        loops = checkpoint["loops"]["fit_loop"]["state_dict"]
        loops.pop("combined_loader", None)  # it is the state after the current batch was fetched
        if self.stateful is not None and within:
            loops["combined_loader"] = [self.loaded]
        if hasattr(pl_module, "epoch_state"):
            mine["epoch"] = pl_module.epoch_state()
        checkpoint["parts"] = {
            "at": str(self.folder.path),  # to translate paths in callbacks' states if the folder moves
            "ended": self.ended,  # saved after the last epoch, not at the start of a batch
            "batch": batch,
            "within": within,
            "processes": gather(mine, trainer.world_size),
            "logged": {name: value.cpu() for name, value in trainer.callback_metrics.items()},
            "should_stop": trainer.should_stop,
            "accumulate": trainer.accumulate_grad_batches,
            "whole": progress.current.completed == 0 or progress.is_last_batch,  # no epoch was cut short
            "folder": list_sizes(self.folder),
        }
        checkpoint.update(describe_data(trainer))

    def on_load_checkpoint(self, trainer: Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        if trainer.state.fn != TrainerFn.FITTING or "parts" not in checkpoint:
            return
        self.parts = {**checkpoint["parts"], "loops": checkpoint["loops"]["fit_loop"]}
        old, new = self.parts["at"], str(self.folder.path)
        checkpoint["callbacks"] = move(checkpoint["callbacks"], old, new)
        self._find_mine(trainer, self.parts)
        from descent.data.like import compare_data

        now = describe_data(trainer).get("data", {})
        if changed := compare_data(now, checkpoint.get("data", {})):
            raise ConfigError("resume", expected=f"the data that the run has seen; {changed}")
        for callback in list_inexact(trainer):
            raise ConfigError("callbacks", expected=f"other ones than {callback}, which begins anew")
        # a run that early stopping ended stays ended
        trainer.should_stop = self.parts["ended"] and self.parts["should_stop"]
        further = trainer.max_steps == -1 or trainer.max_steps > checkpoint["global_step"]
        cut_short = self.parts["ended"] and not self.parts["whole"] and not self.parts["should_stop"]
        if cut_short and further:
            expected = f"{checkpoint['global_step']}, because the run has ended there, within an epoch"
            raise ConfigError("trainer.max_steps", trainer.max_steps, expected=expected)

    def _is_due(self, trainer: Trainer, batch_idx: int) -> bool:
        if self.unit == "auto":
            return time.monotonic() - self.saved_at > max(SHORTEST, self.cost / SHARE)
        if self.unit == "minute":
            return time.monotonic() - self.saved_at > 60 * self.number
        if self.unit == "epoch" or not self.within:
            first = batch_idx == 0 and trainer.current_epoch > 0
            return first and (self.unit != "epoch" or trainer.current_epoch % self.number == 0)
        step = trainer.global_step
        return step % self.number == 0 and step != self.saved_step

    def _agree(self, trainer: Trainer, batch_idx: int, stop: bool, due: bool) -> tuple[bool, bool]:
        """Make the same decision in every process, because clocks differ and a signal may reach only one."""
        counted = self.unit in ("step", "epoch")  # then `due` is the same in all processes
        if batch_idx % (AGREE * trainer.accumulate_grad_batches):
            return False, due and counted
        decide = trainer.strategy.reduce_boolean_decision
        return decide(stop, all=False), due if counted else decide(due, all=False)

    def _save(self, trainer: Trainer) -> None:
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        begun = time.monotonic()
        trainer.save_checkpoint(self.folder.last, weights_only=False)
        self.saved_at, self.saved_step = time.monotonic(), trainer.global_step
        self.cost = self.saved_at - begun

    def _find_mine(self, trainer: Trainer, parts: dict[str, Any]) -> dict[str, Any]:
        """Return this process's part.

        Raises:
            ConfigError: there were more or fewer processes.
        """
        if len(parts["processes"]) != trainer.world_size:
            if not trainer.is_global_zero:
                raise Stopped("", code=2)
            expected = f"{len(parts['processes'])} processes in all, as in the run that is resumed"
            raise ConfigError("trainer.devices", trainer.world_size, expected=expected)
        return parts["processes"][trainer.global_rank]

    def _put_back(self, trainer: Trainer, pl_module: Any, parts: dict[str, Any]) -> None:
        """Restore everything to its state at this same point when the checkpoint was saved."""
        mine = self._find_mine(trainer, parts)
        if parts["within"]:
            put_back_random_state(mine["random"])
        if parts["ended"]:  # this is the first batch of an additional epoch
            if "epoch" in mine:
                pl_module.samples_seen = mine["epoch"]["samples_seen"]
            return
        trainer.fit_loop.load_state_dict(parts["loops"])
        end_restart(trainer)
        logged = {name: value.to(pl_module.device) for name, value in parts["logged"].items()}
        trainer.callback_metrics.update(logged)
        trainer.should_stop = parts["should_stop"]
        if parts["within"]:
            pl_module.load_epoch_state(mine["epoch"])

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


def end_restart(trainer: Trainer) -> None:
    """End the restart of Lightning's loops, which would otherwise skip steps as in a restart."""
    for loop in (trainer.fit_loop, trainer.fit_loop.epoch_loop, trainer.fit_loop.epoch_loop.val_loop):
        loop.on_iteration_done()


def list_inexact(trainer: Trainer) -> list[str]:
    """List the callbacks that act at an epoch's start: a run that resumes mid-epoch would miss that."""
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
