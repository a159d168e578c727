"""The mean loss and the metrics over the samples of an epoch, at almost no cost per step."""

import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torchmetrics
from torch import Tensor, nn

from descent.errors import blame, first_line
from descent.losses import find_takes, weigh_targets
from descent.nested import concatenate, count_samples, list_tensors, map_tensors
from descent.task import IGNORED, Task

ROWS = 16_384  # samples to collect before updating the metrics: few calls, and little memory
BYTES = 1 << 24  # the same limit for large outputs
KEPT = ("steps", "most", "loss", "weight", "samples", "batch")  # in a checkpoint, in addition to the metrics


class Undefined(ValueError):
    """A metric is undefined for these samples."""


class EpochMetrics:
    """Collects what the steps of an epoch produce, and updates the metrics with it in blocks.

    A step only appends to a list. torchmetrics gets blocks of thousands of samples, so its cost (about
    0.7 ms per update, whatever the batch size) becomes negligible, nothing waits for the device inside the
    loop, and any torchmetrics metric works, in one process or many. A metric gets what `task.for_metrics`
    returns; with `takes = "outputs"`, it gets what a criterion gets.
    """

    def __init__(self, metrics: Mapping[str, torchmetrics.Metric], task: Task, criterion: nn.Module) -> None:
        self.metrics = {name: metric.clone() for name, metric in metrics.items()}
        for metric in self.metrics.values():
            metric.persistent(True)
            if not torch.backends.mps.is_available():  # which has no float64
                metric.set_dtype(task.dtype)
        self.task, self.criterion, self.takes = task, criterion, find_takes(criterion)
        self.sums = getattr(criterion, "reduction", "mean") == "sum"
        self.steps: list[tuple[Tensor, Any, Any]] = []  # that the metrics have not seen yet
        self.most = 1  # steps to keep
        self.loss = self.weight = torch.tensor(0.0)  # summed over the samples
        self.samples, self.batch = 0, -1
        self.undefined: dict[str, str] = {}  # metrics that had no value in the last epoch, and why

    def add(self, batch: int, loss: Tensor, outputs: Any, targets: Any) -> None:
        """Record batch number `batch`: its loss, outputs and targets, both `(size, …)`."""
        if batch == self.batch:
            return  # LBFGS evaluates a batch several times; the first time counts
        self.batch = batch
        if not self.steps:
            size = sum(tensor.nbytes for tensor in list_tensors((outputs, targets)))
            self.most = max(1, min(ROWS // max(1, count_samples(targets)), BYTES // max(1, size)))
        self.steps.append((loss, outputs, targets))
        if len(self.steps) >= self.most:
            self._update()

    def reset(self, device: torch.device) -> None:
        """Forget everything, and expect the next tensors on `device`."""
        self.steps, self.samples, self.batch = [], 0, -1
        self.loss = self.weight = torch.tensor(0.0, device=device)
        for metric in self.metrics.values():
            if device != metric.device:
                metric.to(device)
            metric.reset()

    def state_dict(self) -> dict[str, Any]:
        """Return everything recorded since the last reset: plain values, and copies of tensors on the CPU.

        It does not update the metrics, because sums over different blocks would round differently.
        """
        kept = {name: getattr(self, name) for name in KEPT}
        kept["metrics"] = {name: metric.state_dict() for name, metric in self.metrics.items()}
        return map_tensors(kept, lambda tensor: tensor.cpu().clone())

    def load_state_dict(self, state: Mapping[str, Any], device: torch.device) -> None:
        """Continue from what `state_dict` returned."""
        kept = map_tensors(state, lambda tensor: tensor.to(device))
        for name, metric in self.metrics.items():
            metric.load_state_dict(kept["metrics"][name])
            metric.to(device)
        for name in KEPT:
            setattr(self, name, kept[name])

    def compute(self) -> dict[str, Tensor]:
        """Return loss and metrics over the samples of all processes since the last reset, scalar tensors.

        An undefined metric, such as the AUROC when a class has no samples, is NaN.
        """
        self._update()
        totals = torch.stack([self.loss, self.weight])
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(totals)
        values, self.undefined = {"loss": totals[0] / totals[1]}, {}
        for name, metric in self.metrics.items():
            try:
                values |= compute_numbers(name, metric)
            except (ValueError, RuntimeError, UserWarning) as error:
                self.undefined[name] = first_line(error)
                values[name] = torch.tensor(float("nan"))
        return values

    def try_out(self, outputs: Any, targets: Any) -> None:
        """Update and compute a copy of each metric with one batch, to check that it accepts the batch."""
        for name, metric in self.metrics.items():
            with blame(f"metrics.{name}"):
                self._update_with(trial := metric.clone().to(metric.device), outputs, targets)
                try:
                    if count_samples(targets) > 1:
                        compute_numbers(name, trial)
                except (Undefined, UserWarning):
                    continue  # it may be defined over all samples

    def _update(self) -> None:
        """Update the loss and the metrics with the collected steps."""
        steps, self.steps = self.steps, []
        for losses, sizes, outputs, targets in join(steps):
            self.samples += sum(sizes)
            self._add_losses(torch.stack(losses).float(), sizes, outputs, targets)
            for metric in self.metrics.values():
                self._update_with(metric, outputs, targets)

    def _add_losses(self, losses: Tensor, sizes: list[int], outputs: Any, targets: Any) -> None:
        """Add losses `(batches,)`, each a mean or sum over its batch."""
        if self.sums:
            self.loss, self.weight = self.loss + losses.sum(), self.weight + sum(sizes)
            return
        # from pinned memory, the copy does not block
        counts = torch.tensor(sizes, pin_memory=losses.device.type == "cuda")
        counts = counts.to(losses.device, non_blocking=True)
        weights = weigh_targets(self.criterion, self.task.for_loss(outputs, targets, self.takes)[1])
        if weights is None:
            batches = counts.float()
        else:
            samples = weights.reshape(sum(sizes), -1).sum(1)
            places = torch.arange(len(sizes), device=losses.device)
            places = places.repeat_interleave(counts, output_size=len(samples))
            batches = torch.zeros_like(losses).index_add_(0, places, samples)
        # a batch in which no target counts has a NaN loss and no weight
        self.loss = self.loss + torch.where(batches > 0, losses * batches, 0).sum()
        self.weight = self.weight + batches.sum()

    def _update_with(self, metric: torchmetrics.Metric, outputs: Any, targets: Any) -> None:
        take = self.task.for_loss if getattr(metric, "takes", "") == "outputs" else self.task.for_metrics
        metric.update(*take(outputs, targets))


def join(steps: list[tuple[Tensor, Any, Any]]) -> Iterator[tuple[list[Tensor], list[int], Any, Any]]:
    """Yield losses, sizes, outputs and targets, joined over consecutive steps of the same shape."""
    start = 0
    shapes = [[t.shape[1:] for t in list_tensors((outputs, targets))] for _, outputs, targets in steps]
    for end in range(1, len(steps) + 1):
        if end == len(steps) or shapes[end] != shapes[start]:
            losses, outputs, targets = zip(*steps[start:end], strict=True)
            sizes = [count_samples(target) for target in targets]
            yield list(losses), sizes, concatenate(outputs), concatenate(targets)
            start = end


def compute_numbers(name: str, metric: torchmetrics.Metric) -> dict[str, Tensor]:
    """Return a metric's value by name; if it has several, such as one per output, their mean."""
    with warnings.catch_warnings():
        # if a class has no samples, torchmetrics returns 0 and warns
        warnings.filterwarnings("error", message="(?s).*should be meaningless")
        value = metric.compute()
    parts = {name: value}
    if isinstance(value, dict):
        parts = {f"{name}_{key}": part for key, part in value.items()}
    if not all(isinstance(part, Tensor) for part in parts.values()):
        raise TypeError(f"it returns a {type(value).__name__}, which is no number")
    return {key: part.cpu().double().mean().float() for key, part in parts.items()}


class Accuracy(torchmetrics.Metric):
    """The share of samples whose largest output is the true class's, as in the tutorial.

    `MulticlassAccuracy(average="micro")` gives the same value but runs five times as much Python.
    """

    takes = "outputs"  # the largest output is the largest probability
    correct: Tensor
    total: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("correct", torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("total", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        """Count outputs `(n, classes, …)`, and targets `(n, …)` or probabilities; -100 does not count."""
        if targets.is_floating_point():
            targets = targets.argmax(1)
        self.correct += (outputs.argmax(1) == targets).sum()
        self.total += (targets != IGNORED).sum()

    def compute(self) -> Tensor:
        """Return the share, a scalar from 0 to 1."""
        return self.correct / self.total


class R2(torchmetrics.R2Score):
    """The share of the variance that is explained, `1 - sum((y - p)²) / sum((y - mean(y))²)`."""

    takes = "outputs"  # standardised values, where large targets such as Unix seconds lose no digits

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Add predicted and true values, `(n, num_outputs)`."""
        super().update(preds.to(self.sum_error.dtype), target.to(self.sum_error.dtype))

    def compute(self) -> Tensor:
        """Return the mean over the outputs, a scalar of at most 1."""
        varies = self.sum_squared_error - self.sum_error.square() / self.total
        if self.total < 2 or bool((varies <= 1e-12 * self.sum_squared_error).any()):
            raise Undefined("the targets do not vary")
        return super().compute()
