"""The LightningModule: the tutorial's loop, with Lightning's names."""

import time
from collections.abc import Callable, Iterable
from typing import Any

import torch
import torchmetrics
from lightning.pytorch import LightningModule
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import Optimizer, SparseAdam

from descent.errors import ConfigError, of_added_code
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

    input_mean: Tensor
    input_std: Tensor
    target_mean: Tensor
    target_std: Tensor

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
        self.samples_seen, self.flushed = 0, 0.0  # by this process; the loggers, monotonic seconds
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
        inputs, targets = batch  # normalised, and standardised, by the data
        outputs = self.model(inputs)
        loss = self.criterion(outputs, targets)
        metrics.add(batch_idx, loss.detach(), outputs.detach(), targets)
        return loss

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """The line where the optimizer learns where the weights live."""
        try:
            optimizer = self.optimizer(self.model.parameters())
        except (TypeError, ValueError, RuntimeError) as error:  # what torch.optim raises for its arguments
            if of_added_code(error):
                raise
            raise ConfigError(f"optimizer: expected values that it takes ({error})") from error
        if isinstance(optimizer, SparseAdam) and not any(
            getattr(m, "sparse", False) for m in self.model.modules()
        ):
            raise ConfigError(
                "optimizer: SparseAdam expects a model with sparse gradients, as of nn.Embedding(sparse=True)"
            )
        trainer = self._trainer  # None outside a run
        if trainer and trainer.precision == "16-mixed" and trainer.gradient_clip_val and fused(optimizer):
            raise ConfigError(
                "optimizer.fused=true: expected null, for in 16-mixed a fused optimizer unscales the"
                " gradients itself, too late for trainer.gradient_clip_val"
            )
        if self.schedule is None:
            return optimizer
        try:
            steps, epochs = self.trainer.estimated_stepping_batches, self.trainer.max_epochs or 0
            scheduler = self.schedule.build(optimizer, steps, epochs)
        except (TypeError, ValueError, ZeroDivisionError) as error:
            if of_added_code(error):
                raise
            raise ConfigError(f"scheduler: expected values that it takes ({error})") from error
        return {"optimizer": optimizer, "lr_scheduler": scheduler}  # type: ignore[return-value]

    def epoch_state(self) -> dict[str, Any]:
        """What this process knows of the epoch that runs, for a checkpoint in the middle of it."""
        return {
            "samples_seen": self.samples_seen,
            "learning_rates": self.learning_rates,
            "train_metrics": self.train_metrics.state(),
        }

    def load_epoch_state(self, state: dict[str, Any]) -> None:
        self.samples_seen, self.learning_rates = state["samples_seen"], state["learning_rates"]
        self.train_metrics.load_state(state["train_metrics"], self.device)

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
        if time.monotonic() - self.flushed > 1:
            for logger in self.trainer.loggers:
                logger.save()  # to the disk, where TensorBoard looks
            self.flushed = time.monotonic()

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
            # self.log costs 0.4 ms a value, in a small model's epoch of 13 ms; what comes of it is this
            self.trainer.callback_metrics.update({k: torch.as_tensor(v) for k, v in values.items()})
            for logger in self.trainer.loggers:
                logger.log_metrics({name: float(value) for name, value in values.items()}, step=epoch)


def fused(optimizer: Optimizer) -> bool:
    return any(group.get("fused") for group in optimizer.param_groups)
