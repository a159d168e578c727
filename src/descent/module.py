"""The LightningModule: the tutorial's loop, with Lightning's names."""

from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from typing import Any

import torch
import torchmetrics
from lightning.pytorch import LightningModule
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import Optimizer

from descent.errors import ConfigError, blame
from descent.metrics import EpochMetrics
from descent.optimizers import require_clippable
from descent.scaling import Scaling
from descent.schedulers import Schedule


class Supervised(LightningModule):
    """Learns to predict targets from inputs, with a model, a criterion and an optimizer.

    Lightning runs what the hand-written loop spells out: `model.train()` before the training batches,
    `zero_grad`, `backward` on what `training_step` returns, `optimizer.step()`, and `model.eval()` with
    gradients off around `validation_step` and `test_step`.

    Args:
        model: `(batch, *input_shape)` to `(batch, outputs)`, which are logits in classification.
        criterion: a module of `(input, target)` that returns the mean loss of a batch. It holds no
            parameters of the model: `backward` reaches those through the graph behind `input`.
        optimizer: takes parameters and returns the optimizer.
        schedule: how the learning rate changes, or None to keep it constant.
        metrics: torchmetrics by name, logged as `train/<name>`, `val/<name>` and `test/<name>`.
        scaling: between raw inputs, the model, and the targets' own units.
    """

    def __init__(
        self,
        model: nn.Module,
        criterion: nn.Module,
        optimizer: Callable[[Iterable[nn.Parameter]], Optimizer],
        schedule: Schedule | None,
        metrics: Mapping[str, torchmetrics.Metric],
        scaling: Scaling,
    ) -> None:
        super().__init__()
        self.model, self.criterion, self.scaling = model, criterion, deepcopy(scaling)
        self.optimizer, self.schedule = optimizer, schedule
        if getattr(criterion, "takes", None) == "one_hot":  # one yes-or-no question for each class
            self.scaling.activation = "sigmoid"
        self.samples_seen = 0  # by this process
        self.learning_rates: list[float] = []  # of each parameter group, at the start of the epoch
        self.train_metrics, self.val_metrics, self.test_metrics = (
            EpochMetrics(metrics, self.scaling) for _ in range(3)
        )

    def forward(self, inputs: Tensor) -> Tensor:
        """Return probabilities `(batch, classes)` or values `(batch, outputs)` for raw inputs."""
        return self.scaling.unscale(self.model(self.scaling.scale(inputs)))

    def compute_loss(self, inputs: Tensor, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of a batch. Override this for a loss that needs the inputs or the model.

        Args:
            inputs: what the model was given, `(batch, *input_shape)`.
            outputs: what it returned, `(batch, outputs)`.
            targets: class indices, int64 `(batch,)`, or standardised values `(batch, outputs)`.
        """
        return self.criterion(outputs, targets)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return self._step(batch, batch_idx, self.train_metrics)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self._step(batch, batch_idx, self.val_metrics)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self._step(batch, batch_idx, self.test_metrics)

    def _step(self, batch: tuple[Tensor, Tensor], batch_idx: int, metrics: EpochMetrics) -> Tensor:
        inputs, targets = batch  # the data has scaled both
        outputs = self.model(inputs)
        loss = self.compute_loss(inputs, outputs, targets)
        metrics.add(batch_idx, loss.detach(), outputs.detach(), targets)
        return loss

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Tell the optimizer where the weights live: in the model, and for some losses in the criterion."""
        with blame("optimizer"):
            optimizer = self.optimizer([*self.model.parameters(), *self.criterion.parameters()])
            require_clippable(optimizer, self._trainer)
        if self.schedule is None:
            return optimizer
        with blame("scheduler"):
            steps, epochs = self.trainer.estimated_stepping_batches, self.trainer.max_epochs or 0
            scheduler = self.schedule.build(optimizer, steps, epochs)
        return {"optimizer": optimizer, "lr_scheduler": scheduler}  # type: ignore[return-value]

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        with blame("scheduler"):
            super().lr_scheduler_step(scheduler, metric)

    def on_train_epoch_start(self) -> None:
        self.train_metrics.reset(self.device)
        self.learning_rates = [group["lr"] for group in self.trainer.optimizers[0].param_groups]

    def on_validation_epoch_start(self) -> None:
        self.val_metrics.reset(self.device)

    def on_test_epoch_start(self) -> None:
        self.test_metrics.reset(self.device)

    def on_train_epoch_end(self) -> None:
        self._log("train", self.train_metrics, lr=self.learning_rates[0])
        self.samples_seen += self.train_metrics.samples

    def on_validation_epoch_end(self) -> None:
        self._log("val", self.val_metrics)

    def on_test_epoch_end(self) -> None:
        self._log("test", self.test_metrics)

    def _log(self, stage: str, metrics: EpochMetrics, **others: float) -> None:
        values = {f"{stage}/{name}": value for name, value in metrics.compute().items()} | others
        # the loggers' x-axis: epochs, counted from 1 as they are printed
        epoch = self.current_epoch + (0 if self.trainer.testing else 1)
        if self.trainer.state.fn != TrainerFn.FITTING:
            self.log_dict({**values, "step": float(epoch)})
        elif not self.trainer.sanity_checking:
            # as self.log does, which would take 0.4 ms a value of a small model's epoch of 13 ms
            self.trainer.callback_metrics.update({k: torch.as_tensor(v) for k, v in values.items()})
            for logger in self.trainer.loggers:
                logger.log_metrics({name: float(value) for name, value in values.items()}, step=epoch)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Describe the data, so that the weights can be used on new files without it."""
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        kept = {"inputs": data.examples, "activation": self.scaling.activation}
        checkpoint["data"] = {**data.describe(), **kept}

    def on_load_checkpoint(self, checkpoint: Mapping[str, Any]) -> None:
        """Refuse to resume a run with data that differs from what it has seen."""
        changed = self.trainer.datamodule.tell_changes(checkpoint["data"])  # type: ignore[attr-defined]
        if changed and self.trainer.state.fn == TrainerFn.FITTING:
            raise ConfigError("resume", expected=f"the data that the run has seen; {changed}")

    def epoch_state(self) -> dict[str, Any]:
        """Return what this process knows of the current epoch, for a checkpoint in the middle of it."""
        return {
            "samples_seen": self.samples_seen,
            "learning_rates": self.learning_rates,
            "train_metrics": self.train_metrics.state_dict(),
        }

    def load_epoch_state(self, state: Mapping[str, Any]) -> None:
        """Go on in the middle of the epoch that `epoch_state` described."""
        self.samples_seen, self.learning_rates = state["samples_seen"], state["learning_rates"]
        self.train_metrics.load_state_dict(state["train_metrics"], self.device)
