"""Detects losses and weights that are not finite, without making the host wait for the device."""

from math import isfinite
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from descent.errors import Stopped
from descent.metrics import list_tensors
from descent.run.folder import RunFolder

AGREE = 32  # batches between the moments when several processes agree on stopping


class NaNGuard(Callback):
    """Ends a run when its loss is NaN or infinite; no checkpoint that contains a NaN is written.

    On the CPU, it checks each loss. On a GPU, that would make every step wait, so it checks when the host
    waits anyway: at the end of an epoch and before a checkpoint. It still reports the first bad step.
    """

    state_key = "nan_guard"

    def __init__(self) -> None:
        self.last_finite: float | None = None
        self.losses: list[tuple[Tensor, int, int]] = []  # on a GPU: each with its step and batch
        self.fault: Stopped | None = None

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
        if isinstance(loss, Tensor):
            if loss.device.type == "cpu":
                self._look(trainer, loss.item(), trainer.global_step, batch_idx, batch)
            else:
                self.losses.append((loss, trainer.global_step, batch_idx))
        if trainer.world_size == 1:
            if self.fault is not None:
                raise self.fault
        elif (batch_idx + 1) % (AGREE * trainer.accumulate_grad_batches) == 0:
            self._raise_together(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._look_at_all(trainer)
        self._raise_together(trainer)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        self._look_at_all(trainer)
        if self.fault is None and not all(bool(p.isfinite().all()) for p in pl_module.parameters()):
            where = f"step {trainer.global_step}, epoch {trainer.current_epoch + 1}"
            self.fault = Stopped(f"A weight is NaN or infinite at {where}. {advise(trainer)}", code=1)
        self._raise_together(trainer)

    def state_dict(self) -> dict[str, Any]:
        return {"last_finite": self.last_finite}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.last_finite = state_dict["last_finite"]

    def _look_at_all(self, trainer: Trainer) -> None:
        losses, self.losses = self.losses, []
        if losses:
            values = torch.stack([loss.float() for loss, _, _ in losses]).tolist()
            for value, (_, step, batch_idx) in zip(values, losses, strict=True):
                self._look(trainer, value, step, batch_idx, None)

    def _look(self, trainer: Trainer, value: float, step: int, batch_idx: int, batch: Any) -> None:
        """Check a loss, and record the first one that is not finite as the run's fault."""
        if isfinite(value):
            self.last_finite = value
        elif self.fault is None:
            where = f"step {step}, batch {batch_idx} of epoch {trainer.current_epoch + 1}"
            rate = trainer.optimizers[0].param_groups[0]["lr"]
            last = self.last_finite
            known = "" if last is None else f", after {last * trainer.accumulate_grad_batches:.6g}"
            text = f"The loss is {value} at {where}, learning rate {rate:g}{known}"
            if rows := list_broken_rows(batch):
                shown = ", ".join(map(str, rows[:8]))
                text += f"; this batch contains NaN or infinity, in its samples {shown}"
            self.fault = Stopped(f"{text}. {advise(trainer)}", code=1)

    def _raise_together(self, trainer: Trainer) -> None:
        """End the run if a loss was not finite in this process or in another one."""
        if trainer.strategy.reduce_boolean_decision(self.fault is not None, all=False):
            raise self.fault or Stopped("", code=1)


def advise(trainer: Trainer) -> str:
    """Return a sentence on how to continue a trainer's run."""
    return RunFolder(trainer.default_root_dir).advise()


def list_broken_rows(batch: Any) -> list[int]:
    """List the samples of a batch whose inputs or targets contain NaN or infinity."""
    tensors = [t for t in list_tensors(batch) if t.is_floating_point() and t.dim()]
    broken = [~t.reshape(len(t), -1).isfinite().all(1) for t in tensors if len(t)]
    return sorted({row for rows in broken for row in rows.nonzero().flatten().tolist()})
