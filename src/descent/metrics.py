"""Mean loss and metrics over the samples of an epoch, at almost no cost per step."""

from typing import Any

import torch
import torchmetrics
from torch import Tensor

ROWS = 16_384  # samples kept before they are folded into the metrics: bounds memory, amortises the calls


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
        self.metrics, self.mean, self.std = metrics, mean, std
        self.steps: list[tuple[Tensor, Tensor, Tensor]] = []  # not folded yet
        self.loss = torch.tensor(0.0)  # summed over the samples
        self.samples, self.batch = 0, -1

    def add(self, batch: int, loss: Tensor, outputs: Tensor, targets: Tensor) -> None:
        """Record batch number `batch`: its mean loss, outputs `(size, outputs)` and targets `(size, ...)`."""
        if batch == self.batch:
            return  # LBFGS evaluates a batch several times; it counts once, before the step
        self.batch = batch
        self.steps.append((loss, outputs, targets))
        if len(self.steps) * len(targets) >= ROWS:
            self._fold()

    def reset(self, device: torch.device) -> None:
        """Forget everything; what comes next is on `device`."""
        self.steps, self.loss, self.samples, self.batch = [], torch.tensor(0.0, device=device), 0, -1
        self._move(device)
        for metric in self.metrics.values():
            metric.reset()

    def state(self) -> dict[str, Any]:
        """All that has been recorded since the last reset: plain values, and tensors of their own on the CPU.

        Steps that are not folded yet stay so, for folding at another place would round differently.
        """
        return {
            "steps": [tuple(value.cpu().clone() for value in step) for step in self.steps],
            "loss": self.loss.cpu(),
            "samples": self.samples,
            "batch": self.batch,
            "metrics": {name: metric_state(metric) for name, metric in self.metrics.items()},
        }

    def load_state(self, state: dict[str, Any], device: torch.device) -> None:
        """Go on from what `state` returned."""
        self.steps = [tuple(value.to(device) for value in step) for step in state["steps"]]
        self.loss, self.samples, self.batch = state["loss"].to(device), state["samples"], state["batch"]
        for name, metric in self.metrics.items():
            for key, value in state["metrics"][name].items():
                setattr(metric, key, value)
            metric.to(device)
        self._move(device)

    def compute(self) -> dict[str, Tensor]:
        """The means over the samples since the last reset, scalar tensors, synchronised over processes."""
        self._fold()
        loss, samples = self.loss.clone(), torch.tensor(float(self.samples), device=self.loss.device)
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            for total in (loss, samples):
                torch.distributed.all_reduce(total)
        return {"loss": loss / samples, **{name: metric.compute() for name, metric in self.metrics.items()}}

    def _move(self, device: torch.device) -> None:
        if device != self.mean.device:
            self.mean, self.std = self.mean.to(device), self.std.to(device)
        for metric in self.metrics.values():
            if device != metric.device:
                metric.to(device)

    def _fold(self) -> None:
        if not self.steps:
            return
        losses, outputs, targets = zip(*self.steps, strict=True)
        self.steps = []
        lengths = [len(t) for t in targets]
        self.samples += sum(lengths)
        # a smaller batch counts for as many samples as it has; from pinned memory the copy does not wait
        device = losses[0].device
        sizes = torch.tensor(lengths, dtype=torch.float32, pin_memory=device.type == "cuda")
        self.loss = self.loss + (torch.stack(losses).float() * sizes.to(device, non_blocking=True)).sum()
        predicted, expected = torch.cat(outputs).float(), torch.cat(targets)
        if expected.is_floating_point():
            predicted, expected = predicted * self.std + self.mean, expected * self.std + self.mean
        for metric in self.metrics.values():
            metric.update(predicted, expected)


class Accuracy(torchmetrics.Metric):
    """The share of samples whose largest output is that of their class, as the tutorial counts it.

    `MulticlassAccuracy(average="micro")` gives the same after five times as much Python.
    """

    correct: Tensor
    samples: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("correct", torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("samples", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        """Outputs `(n, classes)` and class indices `(n,)`, int64."""
        self.correct += (outputs.argmax(1) == targets).sum()
        self.samples += len(targets)

    def compute(self) -> Tensor:
        """Scalar, from 0 to 1."""
        return self.correct / self.samples


def metric_state(metric: torchmetrics.Metric) -> dict[str, Any]:
    """The sums of a metric; torchmetrics' own `state_dict` leaves out how often it was updated."""
    values = {name: getattr(metric, name) for name in (*metric._defaults, "_update_count")}
    return {name: value.cpu() if isinstance(value, Tensor) else value for name, value in values.items()}


def logged_names(metrics: dict[str, torchmetrics.Metric]) -> list[str]:
    """What a run logs and can be monitored: "train/loss", "val/acc", …"""
    return [f"{stage}/{name}" for stage in ("train", "val") for name in ("loss", *metrics)]


def task_metrics(task: str, outputs: int) -> dict[str, torchmetrics.Metric]:
    """What is counted for a task: the accuracy of classes; MAE and R² of values."""
    if task == "classification":
        return {"acc": Accuracy()}
    return {"mae": torchmetrics.MeanAbsoluteError(), "r2": torchmetrics.R2Score()}
