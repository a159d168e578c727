"""Mean loss and metrics over the samples of an epoch, at almost no cost per step."""

import torch
import torchmetrics
from torch import Tensor
from torchmetrics.classification import MulticlassAccuracy

ROWS = 16_384    # samples kept before they are folded into the metrics: bounds memory, amortises the calls


class EpochMetrics:
    """Collects what the steps of an epoch produce and reduces it in blocks.

    A step only appends to a list. torchmetrics then sees blocks of thousands of samples, so its cost
    (about 0.7 ms an update, whatever the batch) no longer shows, nothing waits for the device inside the
    loop, and any torchmetrics metric can be used, in one process or in many.

    Args:
        metrics: torchmetrics by name; updated with `(outputs, targets)`.
        mean: shape `(outputs,)`; with `std`, undoes the standardisation of regression targets, so that
            the metrics are in the targets' own units.
        std: shape `(outputs,)`.
    """

    def __init__(self, metrics: dict[str, torchmetrics.Metric], mean: Tensor, std: Tensor) -> None:
        self.loss = torchmetrics.MeanMetric()
        self.metrics = torchmetrics.MetricCollection(dict(metrics))
        self.mean, self.std = mean, std
        self.steps: list[tuple[Tensor, Tensor, Tensor]] = []
        self.batch = -1
        self.samples = 0

    def add(self, batch: int, loss: Tensor, outputs: Tensor, targets: Tensor) -> None:
        """Record batch number `batch`: its mean loss, outputs `(size, outputs)` and targets `(size, ...)`."""
        if batch == self.batch:
            return    # LBFGS evaluates a batch several times; it counts once, before the step
        self.batch = batch
        self.steps.append((loss, outputs, targets))
        if len(self.steps) * len(targets) >= ROWS:
            self._fold()

    def reset(self) -> None:
        """Forget everything."""
        self.steps, self.batch, self.samples = [], -1, 0
        self.loss.reset()
        self.metrics.reset()

    def compute(self) -> dict[str, Tensor]:
        """The means over the samples since the last reset, scalar tensors, synchronised over processes."""
        self._fold()
        return {"loss": self.loss.compute(), **self.metrics.compute()}

    def _fold(self) -> None:
        if not self.steps:
            return
        losses, outputs, targets = zip(*self.steps, strict=True)
        self.steps = []
        device = losses[0].device
        self.loss.to(device)
        self.metrics.to(device)
        # a last batch that is smaller counts for as many samples as it has
        sizes = torch.tensor([len(t) for t in targets], dtype=torch.float32, device=device)
        self.samples += sum(len(t) for t in targets)
        self.loss.update(torch.stack(losses).float(), sizes)
        predicted, expected = torch.cat(outputs).float(), torch.cat(targets)
        if expected.is_floating_point():
            mean, std = self.mean.to(device), self.std.to(device)
            predicted, expected = predicted * std + mean, expected * std + mean
        self.metrics.update(predicted, expected)


def logged_names(metrics: dict[str, torchmetrics.Metric]) -> list[str]:
    """What a run logs and can be monitored: "train/loss", "val/acc", …"""
    return [f"{stage}/{name}" for stage in ("train", "val") for name in ("loss", *metrics)]


def task_metrics(task: str, outputs: int) -> dict[str, torchmetrics.Metric]:
    """What is counted for a task: the accuracy of classes; MAE and R² of values."""
    if task == "classification":
        return {"acc": MulticlassAccuracy(outputs, average="micro", validate_args=False)}
    return {"mae": torchmetrics.MeanAbsoluteError(), "r2": torchmetrics.R2Score()}
