"""The LightningModule: the tutorial's loop, with Lightning's names."""

from collections.abc import Callable, Iterable

import torch
import torchmetrics
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import Optimizer, SparseAdam

from descent.errors import ConfigError
from descent.metrics import EpochMetrics
from descent.schedulers import Schedule


class Supervised(LightningModule):
    """Learns targets from inputs: a model, a criterion and an optimizer, each given ready to use.

    Lightning runs what the hand-written loop spells out: `model.train()` before the training batches,
    `zero_grad`, `backward` on what `training_step` returns, `optimizer.step()`, and `model.eval()` with
    gradients off around `validation_step` and `test_step`.

    Args:
        model: `(batch, *input_shape)` to `(batch, outputs)`; logits in classification.
        criterion: a module of `(input, target)` that returns the mean loss of a batch. It holds no
            parameter of the model: `backward` reaches those through the graph behind `input`.
        optimizer: given the model's parameters, returns the optimizer.
        schedule: the learning rate's course, or None to keep it constant.
        metrics: torchmetrics by name, logged as `train/<name>`, `val/<name>` and `test/<name>`.
        input_mean, input_std: what raw inputs are normalised with.
        target_mean, target_std: what standardised outputs are turned back with; 0 and 1 for classes.
    """

    def __init__(
        self,
        model: nn.Module,
        criterion: nn.Module,
        optimizer: Callable[[Iterable[nn.Parameter]], Optimizer],
        schedule: Schedule | None,
        metrics: dict[str, torchmetrics.Metric],
        input_mean: Tensor,
        input_std: Tensor,
        target_mean: Tensor,
        target_std: Tensor,
    ) -> None:
        super().__init__()
        self.model, self.criterion = model, criterion
        self.optimizer, self.schedule = optimizer, schedule
        self.samples_seen = 0    # by this process
        self.train_metrics, self.val_metrics, self.test_metrics = (
            EpochMetrics({name: metric.clone() for name, metric in metrics.items()}, target_mean, target_std)
            for _ in range(3)
        )
        self.register_buffer("input_mean", input_mean)
        self.register_buffer("input_std", input_std)
        self.register_buffer("target_mean", target_mean)
        self.register_buffer("target_std", target_std)

    def forward(self, inputs: Tensor) -> Tensor:
        """Raw inputs `(batch, *input_shape)` to logits, or to values in the targets' own units."""
        outputs = self.model((inputs.to(self.input_mean.dtype) - self.input_mean) / self.input_std)
        return outputs * self.target_std + self.target_mean

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return self._step(batch, batch_idx, self.train_metrics)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self._step(batch, batch_idx, self.val_metrics)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self._step(batch, batch_idx, self.test_metrics)

    def _step(self, batch: tuple[Tensor, Tensor], batch_idx: int, metrics: EpochMetrics) -> Tensor:
        inputs, targets = batch    # normalised, and standardised, by the data
        outputs = self.model(inputs)
        loss = self.criterion(outputs, targets)
        metrics.add(batch_idx, loss.detach(), outputs.detach(), targets)
        return loss

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """The line where the optimizer learns where the weights live."""
        try:
            optimizer = self.optimizer(self.model.parameters())
        except (TypeError, ValueError, RuntimeError) as error:    # what torch.optim raises for its arguments
            raise ConfigError(f"optimizer: {error}") from error
        if isinstance(optimizer, SparseAdam) and not any(getattr(m, "sparse", False) for m in self.model.modules()):
            raise ConfigError("optimizer: SparseAdam expects a model with sparse gradients, such as nn.Embedding(sparse=True)")
        if self.schedule is None:
            return optimizer
        try:
            steps, epochs = self.trainer.estimated_stepping_batches, self.trainer.max_epochs or 0
            scheduler = self.schedule.build(optimizer, steps, epochs)
        except (TypeError, ValueError, ZeroDivisionError) as error:
            raise ConfigError(f"scheduler: {error}") from error
        return {"optimizer": optimizer, "lr_scheduler": scheduler}    # type: ignore[return-value]

    def on_train_epoch_start(self) -> None:
        self.train_metrics.reset()
        self.learning_rates = [group["lr"] for group in self.trainer.optimizers[0].param_groups]

    def on_validation_epoch_start(self) -> None:
        self.val_metrics.reset()

    def on_test_epoch_start(self) -> None:
        self.test_metrics.reset()

    def on_train_epoch_end(self) -> None:
        self._log("train", self.train_metrics)
        self.samples_seen += self.train_metrics.samples
        self._log_dict({"lr": self.learning_rates[0]})

    def on_validation_epoch_end(self) -> None:
        self._log("val", self.val_metrics)

    def on_test_epoch_end(self) -> None:
        self._log("test", self.test_metrics)

    def _log(self, stage: str, metrics: EpochMetrics) -> None:
        self._log_dict({f"{stage}/{name}": value for name, value in metrics.compute().items()})

    def _log_dict(self, values: dict[str, Tensor | float]) -> None:
        # "step" is Lightning's key for the loggers' x-axis: epochs, counted from 1 as they are printed
        self.log_dict({**values, "step": float(self.current_epoch + 1)})
