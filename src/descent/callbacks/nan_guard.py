"""Detects losses and weights that are not finite, without making the host wait for the device."""

from math import isfinite
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from descent.errors import Stopped
from descent.metrics import list_tensors
from descent.run.folder import RunFolder


class NaNGuard(Callback):
    """Ends a run when its loss is NaN or infinite; no checkpoint that contains a NaN is written.

    A process that is alone on a CPU checks each loss. On a GPU, that would make every step wait, so there the
    losses are checked at the end of an epoch and before a checkpoint. The message names the first bad step.
    """

    def __init__(self) -> None:
        self.losses: list[tuple[Tensor, int, int]] = []  # not checked yet, each with its step and batch

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
        if not isinstance(loss, Tensor):
            return
        if loss.device.type != "cpu" or trainer.world_size > 1:
            self.losses.append((loss, trainer.global_step, batch_idx))
        elif not isfinite(value := loss.item()):
            fault = describe(trainer, value, trainer.global_step, batch_idx)
            if rows := list_broken_rows(batch):
                fault += (
                    f"; this batch contains NaN or infinity, in its samples {', '.join(map(str, rows[:8]))}"
                )
            self._end(trainer, fault)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._end(trainer, self._check_losses(trainer))

    def on_save_checkpoint(self, trainer: Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        fault = self._check_losses(trainer)
        broken = (name for name, weight in pl_module.named_parameters() if not weight.isfinite().all())
        if not fault and (name := next(broken, "")):
            fault = f"The weight {name} is NaN or infinite after step {trainer.global_step}"
        self._end(trainer, fault)

    def _check_losses(self, trainer: Trainer) -> str:
        """Describe the first loss that is not finite; "" if there is none."""
        losses, self.losses = self.losses, []
        values = torch.stack([loss.float() for loss, _, _ in losses]).tolist() if losses else []
        for value, (_, step, batch_idx) in zip(values, losses, strict=True):
            if not isfinite(value):
                return describe(trainer, value, step, batch_idx)
        return ""

    def _end(self, trainer: Trainer, fault: str) -> None:
        """End the run if there is a fault in any of its processes; the first one reports it if it can."""
        if trainer.strategy.reduce_boolean_decision(bool(fault), all=False):
            reported = trainer.strategy.broadcast(fault) and not trainer.is_global_zero
            advice = RunFolder(trainer.default_root_dir).advise()
            raise Stopped(f"{fault}. {advice}" if fault and not reported else "", code=1)


def describe(trainer: Trainer, loss: float, step: int, batch_idx: int) -> str:
    """Return where a loss was not finite, in words."""
    where = f"step {step}, batch {batch_idx} of epoch {trainer.current_epoch + 1}"
    return f"The loss is {loss} at {where}, learning rate {trainer.optimizers[0].param_groups[0]['lr']:g}"


def list_broken_rows(batch: Any) -> list[int]:
    """List the samples of a batch whose inputs or targets contain NaN or infinity."""
    tensors = [t for t in list_tensors(batch) if t.is_floating_point() and t.dim()]
    broken = [~t.reshape(len(t), -1).isfinite().all(1) for t in tensors if len(t)]
    return sorted({row for rows in broken for row in rows.nonzero().flatten().tolist()})
