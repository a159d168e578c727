"""Keeps a run: its best weights, a point to go on from exactly, and both when a signal or a fault ends it."""

import os
import random
import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.trainer.states import TrainerFn

from descent.callbacks.faults import Fault, Losses, finite_gradients, finite_weights, rows_not_finite
from descent.callbacks.record import writers
from descent.callbacks.signals import Signals, requeue
from descent.checkpoints import NEW, read, rotate, write
from descent.errors import ConfigError, Stopped, require
from descent.folder import event_files
from descent.module import Supervised

SHARE = 0.01  # of the time that saving may take with every=auto
SHORTEST = 2.0  # seconds between two saves with every=auto
AGREE = 32  # batches between two moments at which several processes agree on saving
TRIES = 50  # batches in a row that on_nan=skip passes over


class Checkpoint(ModelCheckpoint):
    """The best weights by Lightning's ModelCheckpoint, and `last.ckpt`, from which a run goes on exactly.

    Lightning saves in the middle of its own book-keeping and has to guess, when it resumes, how far that
    had come. This saves at one point only, between two optimizer steps: at the start of a batch, before
    anything is computed for it. There it puts back, in a resumed run, all that it found there when it
    saved: the loops' counters, the random states, the sums of the epoch's metrics, the logged values.
    The end of an epoch needs no other case: it is the start of the next one's first batch.

    The best weights are held in memory and written along with the next save, so that a run of many short
    epochs does not spend its time on files; a resumed run finds them again.

    Args:
        dirpath: folder of the checkpoints.
        filename: of the best one, without ".ckpt".
        monitor: the metric that decides which one is best, such as "val/loss".
        mode: "min" or "max".
        save_top_k: how many of the best to keep; more than one need a filename with "{epoch}" in it.
        every: how much work a kill may cost: "100 steps" (of the optimizer), "1 epoch", "10 minutes", or
            "auto": as often as takes 1 % of the time, and at most every 2 seconds.
        on_nan: "stop" ends the run at a loss that is not finite; "skip" passes over such a batch, at the
            cost of waiting for the device at each step.

    Raises:
        ConfigError: another `every` or `on_nan`.
    """

    def __init__(
        self, dirpath: str, filename: str, monitor: str, mode: str, save_top_k: int, every: str, on_nan: str
    ) -> None:
        super().__init__(
            dirpath,
            filename,
            monitor,
            mode=mode,
            save_top_k=save_top_k,
            save_weights_only=True,
            auto_insert_metric_name=False,
            enable_version_counter=False,
        )
        require(on_nan in ("stop", "skip"), "on_nan", on_nan, "stop or skip")
        self.number, self.unit = interval(every)
        self.on_nan = on_nan
        self.folder = Path(dirpath)
        self.signals, self.losses = Signals(), Losses()
        self.best: dict[str, dict[str, Any]] = {}  # by path, not written yet
        self.restored: dict[str, Any] | None = None  # from the file, until the first batch
        self.saved_at, self.saved_step, self.cost = 0.0, -1, 0.0
        self.skipped = 0
        self.fault: Stopped | None = None
        self.ended = False

    # ---- when ------------------------------------------------------------------------------------------

    def setup(self, trainer: Trainer, pl_module: Supervised, stage: str) -> None:  # type: ignore[override]
        super().setup(trainer, pl_module, stage)
        trainer.strategy.checkpoint_io = CheckpointFiles()

    def on_train_start(self, trainer: Trainer, pl_module: Supervised) -> None:  # type: ignore[override]
        super().on_train_start(trainer, pl_module)
        self.signals.catch()
        self.saved_at, self.saved_step = time.monotonic(), trainer.global_step
        loader: Any = trainer.train_dataloader
        if not hasattr(loader, "load_state_dict"):
            name = type(loader).__name__
            say(trainer, f"A resumed run will differ: {name} can not begin in the middle of an epoch")
        elif self.restored is not None:
            loader.load_state_dict({"batch": self.restored["batch"]})

    def on_train_batch_start(  # type: ignore[override]
        self, trainer: Trainer, pl_module: Supervised, batch: Any, batch_idx: int
    ) -> None:
        if self.restored is not None:
            self._put_back(trainer, pl_module, self.restored)
            self.restored = None
        elif batch_idx % trainer.accumulate_grad_batches == 0:  # else there are gradients to be lost
            stop = self.signals.received is not None
            due = self._due(trainer, batch_idx)
            if trainer.world_size > 1:
                stop, due = self._agree(trainer, batch_idx, stop, due)
            if stop or due:
                self._save(trainer, pl_module)
            if stop:
                self._leave(trainer)

    def _due(self, trainer: Trainer, batch_idx: int) -> bool:
        if self.unit == "auto":
            return time.monotonic() - self.saved_at > max(SHORTEST, self.cost / SHARE)
        if self.unit == "minute":
            return time.monotonic() - self.saved_at > 60 * self.number
        if self.unit == "epoch":
            return batch_idx == 0 < trainer.current_epoch and trainer.current_epoch % self.number == 0
        step = trainer.global_step
        return step % self.number == 0 and step != self.saved_step

    def _agree(self, trainer: Trainer, batch_idx: int, stop: bool, due: bool) -> tuple[bool, bool]:
        """The same decision in every process, though clocks differ and a signal may reach only one."""
        counted = self.unit in ("step", "epoch")  # which is the same everywhere
        if batch_idx % (AGREE * trainer.accumulate_grad_batches):
            return False, due and counted
        self._raise_fault(trainer)
        return self._any(trainer, stop), due if counted else self._any(trainer, due)

    def _any(self, trainer: Trainer, here: bool) -> bool:
        return here if trainer.world_size == 1 else trainer.strategy.reduce_boolean_decision(here, all=False)

    def on_train_batch_end(  # type: ignore[override]
        self, trainer: Trainer, pl_module: Supervised, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        # in place of ModelCheckpoint's: nothing is saved in the middle of Lightning's book-keeping
        if self.on_nan == "stop" and "loss" in outputs and self.fault is None:
            place = trainer.global_step, batch_idx, trainer.current_epoch
            if (fault := self.losses.look(outputs["loss"], place)) is not None:
                self.fault = self._not_finite(trainer, fault, batch)
                if trainer.world_size == 1:
                    self._raise_fault(trainer)  # several processes do so together

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: Supervised, optimizer: Any) -> None:  # type: ignore[override]
        if self.on_nan != "skip":
            return
        finite = finite_gradients(pl_module.parameters())
        if trainer.strategy.reduce_boolean_decision(finite):
            self.skipped = 0
            return
        self.skipped += 1
        if self.skipped == 1:
            batch = trainer.fit_loop.epoch_loop.batch_idx
            say(trainer, f"Step {trainer.global_step}, batch {batch}: not finite, passed over")
        if self.skipped == TRIES:
            raise Stopped(f"on_nan=skip: {TRIES} batches in a row were not finite; {self._kept()}", code=1)
        optimizer.zero_grad()  # an optimizer leaves parameters without a gradient alone

    def on_train_end(self, trainer: Trainer, pl_module: Supervised) -> None:  # type: ignore[override]
        self.ended = True
        self._save(trainer, pl_module)
        if self._any(trainer, self.signals.received is not None):
            self._leave(trainer)
        self.signals.release()

    def on_exception(self, trainer: Trainer, pl_module: Any, exception: BaseException) -> None:
        self.signals.release()
        if trainer.world_size == 1:
            self._write_best(trainer)

    def _leave(self, trainer: Trainer) -> None:
        number = self.signals.received or 15  # 15: the signal has reached another process
        if not trainer.is_global_zero:
            raise Stopped("", code=128 + number)
        text = f"Stopped and saved in epoch {trainer.current_epoch + 1}, after step {trainer.global_step}. "
        if number not in (2, 15):
            text += requeue() + ". "
        raise Stopped(text + self._kept(), code=128 + number)

    # ---- what ------------------------------------------------------------------------------------------

    def _save(self, trainer: Trainer, pl_module: Supervised) -> None:
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        begun = time.monotonic()
        if self.on_nan == "stop" and (fault := self.losses.look_at_all()) is not None:
            self.fault = self.fault or self._not_finite(trainer, fault, None)
        if self.fault is None and not finite_weights(pl_module.model):
            where = f"step {trainer.global_step}, epoch {trainer.current_epoch + 1}"
            self.fault = Stopped(f"A weight is not a number at {where}. {self._kept()}", code=1)
        self._raise_fault(trainer)
        self._write_best(trainer)
        for writer in writers(trainer):
            writer.flush()
        trainer.save_checkpoint(self.folder / NEW, weights_only=False)
        if trainer.is_global_zero:
            rotate(self.folder)
        self.saved_at, self.saved_step = time.monotonic(), trainer.global_step
        self.cost = self.saved_at - begun

    def on_save_checkpoint(self, trainer: Trainer, pl_module: Supervised, checkpoint: dict[str, Any]) -> None:  # type: ignore[override]
        mine = {"random": random_state(), "epoch": pl_module.epoch_state()}
        files = event_files(self.folder.parent)
        checkpoint["resume"] = {
            "ended": self.ended,  # after the last epoch, and not at the start of a batch
            "batch": 0 if self.ended else trainer.fit_loop.epoch_loop.batch_progress.current.completed,
            "processes": gathered(mine, trainer.world_size),
            "callback_metrics": {k: v.cpu() for k, v in trainer.callback_metrics.items()},
            "should_stop": trainer.should_stop,
            "sizes": {str(path.relative_to(self.folder.parent)): path.stat().st_size for path in files},
        }

    def on_load_checkpoint(self, trainer: Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        if trainer.state.fn == TrainerFn.FITTING and "resume" in checkpoint:
            self.restored = {**checkpoint["resume"], "loops": checkpoint["loops"]["fit_loop"]}
            # a run that early stopping has ended stays so
            trainer.should_stop = self.restored["ended"] and self.restored["should_stop"]

    def _put_back(self, trainer: Trainer, pl_module: Supervised, restored: dict[str, Any]) -> None:
        """Make everything as it was at this same point when the checkpoint was saved."""
        if len(restored["processes"]) != trainer.world_size:
            raise ConfigError(
                f"trainer.devices: expected {len(restored['processes'])} processes in all, as in the run"
                f" that is resumed, not {trainer.world_size}"
            )
        mine = restored["processes"][trainer.global_rank]
        if restored["ended"]:  # this is the first batch of an epoch more
            pl_module.samples_seen = mine["epoch"]["samples_seen"]
            put_back_random_state(mine["random"])
            return
        loops = trainer.fit_loop, trainer.fit_loop.epoch_loop, trainer.fit_loop.epoch_loop.val_loop
        trainer.fit_loop.load_state_dict(restored["loops"])
        for loop in loops:
            loop.on_iteration_done()  # it is no longer restarting, but where it was
        trainer.callback_metrics.update(
            {name: value.to(pl_module.device) for name, value in restored["callback_metrics"].items()}
        )
        trainer.should_stop = restored["should_stop"]
        pl_module.load_epoch_state(mine["epoch"])
        put_back_random_state(mine["random"])

    # ---- the best, by Lightning ------------------------------------------------------------------------

    def _save_checkpoint(self, trainer: Trainer, filepath: str) -> None:
        # what ModelCheckpoint calls to write a file
        checkpoint = trainer._checkpoint_connector.dump_checkpoint(weights_only=True)
        weights = checkpoint["state_dict"]
        checkpoint["state_dict"] = {name: value.cpu().clone() for name, value in weights.items()}
        self.best[filepath] = checkpoint
        self._last_global_step_saved = trainer.global_step

    def _monitor_candidates(self, trainer: Trainer) -> dict[str, Any]:
        # ModelCheckpoint copies every logged tensor; these are made anew each epoch
        counters = {"epoch": torch.tensor(trainer.current_epoch), "step": torch.tensor(trainer.global_step)}
        return trainer.callback_metrics | counters

    def _remove_checkpoint(self, trainer: Trainer, filepath: str) -> None:
        if self.best.pop(filepath, None) is None:
            super()._remove_checkpoint(trainer, filepath)

    def _write_best(self, trainer: Trainer) -> None:
        for path, checkpoint in self.best.items():
            trainer.strategy.save_checkpoint(checkpoint, path)
        self.best = {}

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"losses": self.losses.last_finite}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.losses.last_finite = state_dict.pop("losses")
        old, new = str(state_dict["dirpath"]), str(self.dirpath)  # the folder may have been moved

        def moved(value: Any) -> Any:
            if isinstance(value, dict):
                return {moved(key): moved(item) for key, item in value.items()}
            return value.replace(old, new, 1) if isinstance(value, str) and value.startswith(old) else value

        super().load_state_dict(moved(state_dict))

    # ---- words -----------------------------------------------------------------------------------------

    def _raise_fault(self, trainer: Trainer) -> None:
        """End the run if a loss was no number, here or in another process."""
        if self._any(trainer, self.fault is not None):
            raise self.fault or Stopped("", code=1)

    def _not_finite(self, trainer: Trainer, fault: Fault, batch: Any) -> Stopped:
        where = f"step {fault.step}, batch {fault.batch} of epoch {fault.epoch + 1}"
        rate = trainer.optimizers[0].param_groups[0]["lr"]
        last = self.losses.last_finite
        known = "" if last is None else f", after {last * trainer.accumulate_grad_batches:.6g}"
        text = f"The loss is {fault.value} at {where}, learning rate {rate:g}{known}"
        now = (fault.step, fault.epoch) == (trainer.global_step, trainer.current_epoch)
        if rows := rows_not_finite(batch) if now else []:
            text += f"; this batch holds NaN or infinity, in its samples {', '.join(map(str, rows[:8]))}"
        return Stopped(f"{text}. {self._kept()}", code=1)

    def _kept(self) -> str:
        if not (self.folder / "last.ckpt").exists():
            return "There is no checkpoint before it"
        return f"Go on with: python src/train.py resume={os.path.relpath(self.folder.parent)}"


def interval(every: str) -> tuple[int, str]:
    """ "100 steps" as `(100, "step")`; "auto" as `(0, "auto")`."""
    match = re.fullmatch(r"(\d+) ?(step|epoch|minute)s?", every)
    valid = every == "auto" or (match is not None and int(match[1]) > 0)
    require(valid, "every", every, "auto, or as in 100steps, 1epoch or 10minutes")
    return (int(match[1]), match[2]) if match else (0, "auto")


def random_state() -> dict[str, Any]:
    """Of every generator that a run may draw from, in plain values."""
    kind, keys, *rest = np.random.get_state(legacy=True)
    return {
        "python": random.getstate(),
        "numpy": [kind, keys.tolist(), *rest],  # type: ignore[union-attr]
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
        "mps": torch.mps.get_rng_state() if torch.backends.mps.is_available() else None,
    }


def put_back_random_state(state: dict[str, Any]) -> None:
    random.setstate(state["python"])
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    if state["cuda"]:
        torch.cuda.set_rng_state_all(state["cuda"])
    if state["mps"] is not None:
        torch.mps.set_rng_state(state["mps"])


def gathered(value: Any, world_size: int) -> list[Any]:
    """What each process has, in the order of their ranks."""
    if world_size == 1:
        return [value]
    values: list[Any] = [None] * world_size
    torch.distributed.all_gather_object(values, value)
    return values


def say(trainer: Trainer, text: str) -> None:
    if trainer.is_global_zero:
        print(text, flush=True)


class CheckpointFiles(TorchCheckpointIO):
    """Lightning's reading and writing of checkpoints, made safe: see `descent.checkpoints`."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        write(checkpoint, Path(path))

    def load_checkpoint(
        self, path: Any, map_location: Any = "cpu", weights_only: bool | None = True
    ) -> dict[str, Any]:
        return read(Path(path), map_location)
