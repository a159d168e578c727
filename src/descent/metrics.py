"""Mean loss and metrics over the samples of an epoch, at almost no cost per step."""

import torch
import torchmetrics
from torch import Tensor, nn
from torchmetrics.classification import MulticlassAccuracy

ROWS = 16_384    # samples kept before they are folded into the metrics: bounds memory, amortises the calls


class EpochMetrics(nn.Module):
    """Collects what the steps of an epoch produce and reduces it in blocks.

    A step only appends three tensors to a list. torchmetrics then sees blocks of thousands of samples,
    so its cost (about 0.7 ms an update, whatever the batch) no longer shows, nothing waits for the device
    inside the loop, and any torchmetrics metric can be used, in one process or in many.

    Args:
        metrics: torchmetrics by name; updated with `(outputs, targets)`.
        mean: shape `(outputs,)`; with `std`, undoes the standardisation of regression targets, so that
            the metrics are in the targets' own units.
        std: shape `(outputs,)`.
    """

    def __init__(
        self,
        metrics: dict[str, torchmetrics.Metric],
        mean: Tensor | None = None,
        std: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.loss = torchmetrics.MeanMetric()
        self.metrics = torchmetrics.MetricCollection(dict(metrics))
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("std", std, persistent=False)
        self._steps: list[tuple[Tensor, Tensor, Tensor]] = []
        self._rows = 0

    def add(self, loss: Tensor, outputs: Tensor, targets: Tensor) -> None:
        """Record one step: its scalar mean loss, outputs `(batch, outputs)` and targets `(batch, ...)`."""
        self._steps.append((loss, outputs, targets))
        self._rows += len(targets)
        if self._rows >= ROWS:
            self._fold()

    def compute(self) -> dict[str, Tensor]:
        """The epoch's means over samples, as scalar tensors, synchronised over processes; starts anew."""
        self._fold()
        values = {"loss": self.loss.compute(), **self.metrics.compute()}
        self.loss.reset()
        self.metrics.reset()
        return values

    def _fold(self) -> None:
        if not self._steps:
            return
        losses, outputs, targets = zip(*self._steps, strict=True)
        self._steps, self._rows = [], 0
        # a last batch that is smaller counts for as many samples as it has
        sizes = torch.tensor([len(t) for t in targets], dtype=torch.float32)
        self.loss.update(torch.stack(losses).float(), sizes.to(losses[0].device))
        predicted, expected = torch.cat(outputs).float(), torch.cat(targets)
        if self.std is not None and self.mean is not None:
            predicted, expected = predicted * self.std + self.mean, expected * self.std + self.mean
        self.metrics.update(predicted, expected)


def task_metrics(task: str, outputs: int) -> dict[str, torchmetrics.Metric]:
    """What is counted for a task: the accuracy of classes; MAE and R² of values."""
    if task == "classification":
        return {"acc": MulticlassAccuracy(outputs, average="micro", validate_args=False)}
    return {"mae": torchmetrics.MeanAbsoluteError(), "r2": torchmetrics.R2Score()}
