"""The LightningModule: the tutorial's loop, under Lightning's names."""

from collections.abc import Callable, Iterable, Mapping
from inspect import signature
from typing import Any

import torch
import torchmetrics
from lightning.pytorch import LightningModule
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor, nn
from torch.optim import Optimizer

from descent.errors import blame
from descent.losses import count_terms, find_takes
from descent.metrics import EpochMetrics
from descent.task import Task
from descent.trial import try_out


class Supervised(LightningModule):
    """Learns to predict targets from inputs, with a model, a criterion and an optimizer.

    Lightning runs what the hand-written loop spells out: `model.train()` before the training batches,
    `zero_grad`, `backward` on what `training_step` returns, `optimizer.step()`, and `model.eval()` with
    gradients off around `validation_step` and `test_step`.

    Args:
        model: from inputs `(batch, …)` to outputs, such as logits `(batch, classes)`.
        criterion: a module of `(input, target)` that returns the mean loss of a batch. It contains none of
            the model's parameters: `backward` reaches those through the graph behind `input`.
        optimizer: takes parameters and returns the optimizer.
        schedule: a `descent.schedulers.Schedule` of the learning rate, or None to keep it constant.
        metrics: torchmetrics by name, logged as `train/<name>`, `val/<name>` and `test/<name>`.
        task: what targets mean, or None to leave outputs and targets as they are.
        scaling: turns raw inputs into the model's; training batches are already scaled.
        groups: parameter groups of the optimizer; see `descent.optimizers.group_parameters`.
    """

    def __init__(
        self,
        model: nn.Module,
        criterion: nn.Module,
        optimizer: Callable[[Iterable[Any]], Optimizer],
        schedule: Any = None,
        metrics: Mapping[str, torchmetrics.Metric] | None = None,
        task: Task | None = None,
        scaling: nn.Module | None = None,
        groups: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.model, self.task, self.scaling = model, task or Task(), scaling or nn.Identity()
        self.criterion, self.takes = criterion, find_takes(criterion)
        self.terms = count_terms(criterion, self.task)
        self.optimizer, self.schedule, self.groups = optimizer, schedule, groups
        self.samples_seen, self.tried = 0, False  # by this process; whether one batch was tried on all parts
        stages = (EpochMetrics(metrics or {}, self.task, criterion) for _ in range(3))
        self.train_metrics, self.val_metrics, self.test_metrics = stages

    def forward(self, inputs: Tensor) -> Any:
        """Return probabilities, or values in their own units, for raw inputs `(batch, …)`."""
        return self.task.predict(self.model(self.scaling(inputs)))

    def compute_loss(self, inputs: Any, outputs: Any, targets: Any) -> Tensor:
        """Return the loss of a batch. Override this for a loss that needs the inputs or the model."""
        loss = self.criterion(*self.task.for_loss(outputs, targets, self.takes))
        return loss if self.terms == 1 else loss * self.terms

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self._step(batch, batch_idx, self.train_metrics)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self._step(batch, batch_idx, self.val_metrics)

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self._step(batch, batch_idx, self.test_metrics)

    def _step(self, batch: Any, batch_idx: int, metrics: EpochMetrics) -> Tensor:
        inputs, targets = batch  # the data has already scaled both
        if not self.tried and not torch.is_inference_mode_enabled():
            self.tried = True
            try_out(self, inputs, targets)
        outputs = self.model(inputs)
        loss = self.compute_loss(inputs, outputs, targets)
        metrics.add(batch_idx, loss.detach(), apply_to_collection(outputs, Tensor, Tensor.detach), targets)
        return loss

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Give the optimizer the weights, which are in the model and, for some losses, in the criterion."""
        with blame("optimizer"):
            parameters: list[Any] = [*self.model.parameters(), *self.criterion.parameters()]
            if self.groups:
                from descent.optimizers import group_parameters

                rate = getattr(self.optimizer, "keywords", {}).get("lr")
                parameters = group_parameters(self.model, self.criterion, self.groups, rate)
            optimizer = self.optimizer(parameters)
        if self.schedule is None:
            return optimizer
        with blame("scheduler"):
            scheduler = self.schedule.build(optimizer, self.trainer)
        return {"optimizer": optimizer, "lr_scheduler": scheduler}  # type: ignore[return-value]

    def on_train_epoch_end(self) -> None:
        self._log("train", self.train_metrics)
        self.samples_seen += self.train_metrics.samples

    def on_validation_epoch_end(self) -> None:
        self._log("val", self.val_metrics)

    def on_test_epoch_end(self) -> None:
        self._log("test", self.test_metrics)
        if self.trainer.is_global_zero:
            for name, reason in self.test_metrics.undefined.items():
                print(f"test/{name} is not defined: {reason}")

    def _log(self, stage: str, metrics: EpochMetrics) -> None:
        values = {f"{stage}/{name}": value for name, value in metrics.compute().items()}
        if self.trainer.state.fn != TrainerFn.FITTING:
            self.log_dict(values)
        elif not self.trainer.sanity_checking:
            # as self.log_dict does, which would take 1 ms of a small model's epoch of 12 ms
            self.trainer.callback_metrics.update(values)
            points = {name: value.item() for name, value in values.items()}
            for logger in self.trainer.loggers:
                logger.log_metrics(points, self.trainer.global_step)

    def list_logged(self) -> list[str]:
        """Return the names that this module logs and that can be monitored: "train/loss", "val/acc", …"""
        return [
            f"{stage}/{name}" for stage in ("train", "val") for name in ("loss", *self.val_metrics.metrics)
        ]

    def epoch_state(self) -> dict[str, Any]:
        """Return this process's state within the current epoch, for a checkpoint in the middle of it."""
        return {"samples_seen": self.samples_seen, "train_metrics": self.train_metrics.state_dict()}

    def load_epoch_state(self, state: Mapping[str, Any]) -> None:
        """Continue in the middle of the epoch that `epoch_state` described."""
        self.samples_seen = state["samples_seen"]
        self.train_metrics.load_state_dict(state["train_metrics"], self.device)

    def __setattr__(self, name: str, value: Any) -> None:
        if type(value) is str or (value is None and name in self.__dict__):
            # Lightning records the name of each hook here; nn.Module's own __setattr__ would take 3 µs
            self.__dict__[name] = value
        else:
            super().__setattr__(name, value)


# Lightning inspects a step's signature at each call; a stored signature takes a quarter as long
step: Any
for step in (Supervised.training_step, Supervised.validation_step):
    step.__signature__ = signature(step)
