"""Notices losses and gradients that are not finite, without making the host wait for the device."""

from collections.abc import Callable, Iterable
from math import inf, isfinite
from typing import Any, NamedTuple

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from descent.errors import Stopped, require
from descent.run.folder import RunFolder

LAG = 64  # steps on a GPU between two looks at the losses
AGREE = 32  # batches between two moments at which several processes agree on stopping
TRIES = 50  # batches in a row that on_nan=skip passes over
Place = tuple[int, int, int]  # optimizer step, batch of the epoch, epoch


class NaNGuard(Callback):
    """Ends a run at a loss that is not finite, or skips such batches; no checkpoint is written with a NaN.

    Args:
        on_nan: "stop" ends the run; "skip" skips the batch, but has to wait for the device at each step.
    """

    def __init__(self, on_nan: str) -> None:
        require(on_nan in ("stop", "skip"), "on_nan", on_nan, "stop or skip")
        self.on_nan = on_nan
        self.losses = Losses()
        self.skipped = 0
        self.fault: Stopped | None = None

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self.on_nan == "stop" and "loss" in outputs and self.fault is None:
            fault = self.losses.look(
                outputs["loss"], lambda: (trainer.global_step, batch_idx, trainer.current_epoch)
            )
            if fault is not None:
                self.fault = self._tell(trainer, fault, batch)
        if trainer.world_size == 1:
            if self.fault is not None:
                raise self.fault
        elif (batch_idx + 1) % (AGREE * trainer.accumulate_grad_batches) == 0:
            self._raise_together(trainer)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        if self.on_nan != "skip":
            return
        finite = finite_gradients(pl_module.parameters())
        if trainer.strategy.reduce_boolean_decision(finite):
            self.skipped = 0
            return
        self.skipped += 1
        batch = trainer.fit_loop.epoch_loop.batch_idx
        if self.skipped == 1 and trainer.is_global_zero:
            print(f"Step {trainer.global_step}, batch {batch}: not finite, passed over", flush=True)
        if self.skipped == TRIES:
            text = f"on_nan=skip: {TRIES} batches in a row were not finite"
            raise Stopped(f"{text}. {advise(trainer)}", code=1)
        optimizer.zero_grad()  # an optimizer leaves parameters without a gradient alone

    def on_save_checkpoint(self, trainer: Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        if self.on_nan == "stop" and (fault := self.losses.look_at_all()) is not None:
            self.fault = self.fault or self._tell(trainer, fault, None)
        if self.fault is None and not all(bool(p.isfinite().all()) for p in pl_module.parameters()):
            where = f"step {trainer.global_step}, epoch {trainer.current_epoch + 1}"
            self.fault = Stopped(f"A weight is not a number at {where}. {advise(trainer)}", code=1)
        self._raise_together(trainer)

    def state_dict(self) -> dict[str, Any]:
        return {"last_finite": self.losses.last_finite}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.losses.last_finite = state_dict["last_finite"]

    def _raise_together(self, trainer: Trainer) -> None:
        """End the run if a loss was not finite in this process or in another one."""
        if trainer.strategy.reduce_boolean_decision(self.fault is not None, all=False):
            raise self.fault or Stopped("", code=1)

    def _tell(self, trainer: Trainer, fault: "Fault", batch: Any) -> Stopped:
        where = f"step {fault.step}, batch {fault.batch} of epoch {fault.epoch + 1}"
        rate = trainer.optimizers[0].param_groups[0]["lr"]
        last = self.losses.last_finite
        known = "" if last is None else f", after {last * trainer.accumulate_grad_batches:.6g}"
        text = f"The loss is {fault.value} at {where}, learning rate {rate:g}{known}"
        now = (fault.step, fault.epoch) == (trainer.global_step, trainer.current_epoch)
        if rows := list_broken_rows(batch) if now else []:
            text += f"; this batch holds NaN or infinity, in its samples {', '.join(map(str, rows[:8]))}"
        return Stopped(f"{text}. {advise(trainer)}", code=1)


def advise(trainer: Trainer) -> str:
    """Say how to go on with the run of a trainer."""
    return RunFolder(trainer.default_root_dir).advise()


class Fault(NamedTuple):
    """A loss that is not finite, and where it came up."""

    value: float
    step: int
    batch: int
    epoch: int


class Losses:
    """Watches the training loss: on the CPU at each step, on a GPU in blocks that were computed long ago.

    The GPU copies a block of `LAG` losses to the host while it computes the next block, so nothing waits;
    a bad loss is seen at most `2 * LAG` steps late.
    """

    def __init__(self) -> None:
        self.last_finite: float | None = None
        self.block: list[tuple[Tensor, Place]] = []
        self.copied: tuple[Tensor, Any, list[Place]] | None = None

    def look(self, loss: Tensor, find_place: Callable[[], Place]) -> Fault | None:
        """Take note of a loss, a scalar; return the first loss that is known by now not to be finite.

        On the CPU, its place is asked for only if the loss is not finite.
        """
        if loss.device.type == "cpu":
            value = loss.item()
            return None if self._note(value) else Fault(value, *find_place())
        self.block.append((loss, find_place()))
        return self._exchange() if len(self.block) == LAG else None

    def look_at_all(self) -> Fault | None:
        """Wait for the device, and return the first of all losses so far that is not finite."""
        found = self._exchange() if self.block else None
        return found or (self._exchange() if self.copied else None)

    def _note(self, value: float) -> bool:
        """Take note of a loss, and return whether it is finite."""
        if isfinite(value):
            self.last_finite = value
            return True
        return False

    def _exchange(self) -> Fault | None:
        """Start to copy the losses since the last exchange, and look at those that were copied before."""
        arrived, self.copied = self.copied, None
        if self.block:
            losses, places = zip(*self.block, strict=True)
            self.copied = (*to_host(torch.stack(losses)), list(places))
            self.block = []
        if arrived is None:
            return None
        values, event, places_before = arrived
        if event is not None:
            event.synchronize()
        for value, place in zip(values.tolist(), places_before, strict=True):
            if not self._note(value):
                return Fault(value, *place)
        return None


def to_host(values: Tensor) -> tuple[Tensor, Any]:
    """Return a copy on the CPU, and for CUDA the event after which the copy is there."""
    if values.device.type != "cuda":
        return values.cpu(), None
    host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
    host.copy_(values, non_blocking=True)
    event = torch.cuda.Event()
    event.record()
    return host, event


def finite_gradients(parameters: Iterable[nn.Parameter]) -> bool:
    """Wait for the device, and return whether every gradient is finite."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    # the largest magnitude is NaN if any element is
    return not gradients or isfinite(nn.utils.get_total_norm(gradients, norm_type=inf).item())


def list_broken_rows(batch: Any) -> list[int]:
    """List the samples of a batch whose inputs or targets hold NaN or infinity."""
    tensors = [t for t in batch if isinstance(t, Tensor) and t.is_floating_point()] if batch else []
    bad = [~t.flatten(1).isfinite().all(1) if t.dim() > 1 else ~t.isfinite() for t in tensors]
    return torch.stack(bad).any(0).nonzero().flatten().tolist() if bad else []
