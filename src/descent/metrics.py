"""The mean loss and the metrics over the samples of an epoch, at almost no cost per step."""

import warnings
from collections.abc import Mapping
from contextlib import suppress
from itertools import groupby
from typing import Any

import torch
import torchmetrics
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor, nn

from descent.errors import blame, first_line
from descent.losses import find_takes, weigh_targets
from descent.task import IGNORED, Task

ROWS, BYTES = 16_384, 1 << 24  # to collect before updating the metrics: few calls, and little memory
KEPT = ("steps", "loss", "weight", "samples", "batch")  # in a checkpoint, in addition to the metrics


class EpochMetrics:
    """Collects what the steps of an epoch produce, and updates any torchmetrics with it in blocks.

    A step only appends to a list, and nothing waits for the device. An update takes about 0.7 ms whatever its
    size, so it gets thousands of samples at a time, or a step's where outputs are nested. A metric gets what
    `task.for_metrics` returns; with `takes = "outputs"`, it gets what a criterion gets.
    """

    def __init__(self, metrics: Mapping[str, torchmetrics.Metric], task: Task, criterion: nn.Module) -> None:
        self.metrics = {name: metric.clone() for name, metric in metrics.items()}
        for metric in self.metrics.values():
            metric.persistent(True)
            if not torch.backends.mps.is_available():  # which has no float64
                metric.set_dtype(task.dtype)
        self.task, self.criterion, self.takes = task, criterion, find_takes(criterion)
        self.undefined: dict[str, str] = {}  # metrics that had no value in the last epoch, and why
        self.reset(torch.device("cpu"))

    def reset(self, device: torch.device) -> None:
        """Forget everything, at the beginning of an epoch whose tensors will be on `device`."""
        self.steps: list[tuple[Tensor, Any, Any]] = []  # that the metrics have not seen yet
        self.loss = self.weight = torch.tensor(0.0, device=device)  # summed over the samples
        self.samples, self.batch = 0, -1
        for metric in self.metrics.values():
            metric.to(device).reset()

    def add(self, batch: int, loss: Tensor, outputs: Any, targets: Any) -> None:
        """Record batch number `batch`: its loss, outputs and targets, both `(size, …)`."""
        if batch == self.batch:
            return  # LBFGS evaluates a batch several times; the first time counts
        if batch == 0:
            self.reset(loss.device)
        self.batch = batch
        self.steps.append((loss, outputs, targets))
        n, joins = len(self.steps), all(isinstance(p, Tensor) and p.dim() for p in (outputs, targets))
        if not joins or n * len(targets) >= ROWS or n * (outputs.nbytes + targets.nbytes) >= BYTES:
            self._update()

    def compute(self) -> dict[str, Tensor]:
        """Return the epoch's loss and metrics over the samples of all processes, scalar tensors.

        An undefined metric, such as the AUROC when a class has no samples, is NaN.
        """
        self._update()
        self.batch = -1
        totals = torch.stack([self.loss, self.weight])
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(totals)
        values, self.undefined = {"loss": totals[0] / totals[1]}, {}
        for name, metric in self.metrics.items():
            try:
                values |= compute_numbers(name, metric)
            except (ValueError, RuntimeError, ArithmeticError, UserWarning) as error:
                self.undefined[name] = first_line(error)
                values[name] = torch.tensor(float("nan"))
        return values

    def try_out(self, outputs: Any, targets: Any) -> None:
        """Update and compute a copy of each metric with one batch, to check that it accepts the batch."""
        for name, metric in self.metrics.items():
            # an undefined one may be defined over all samples
            with blame(f"metrics.{name}"), suppress(ArithmeticError, UserWarning):
                trial = metric.clone().to(list_tensors(outputs)[0].device)
                self._update_with(trial, outputs, targets)
                if count_samples(targets) > 1:
                    compute_numbers(name, trial)

    def state_dict(self) -> dict[str, Any]:
        """Return everything recorded in this epoch: plain values, and copies of tensors on the CPU.

        It does not update the metrics, because sums over different blocks would round differently.
        """
        kept = {name: getattr(self, name) for name in KEPT}
        kept["metrics"] = {name: metric.state_dict() for name, metric in self.metrics.items()}
        return apply_to_collection(kept, Tensor, lambda tensor: tensor.cpu().clone())

    def load_state_dict(self, state: Mapping[str, Any], device: torch.device) -> None:
        """Continue from what `state_dict` returned."""
        kept = apply_to_collection(state, Tensor, Tensor.to, device)
        for name, metric in self.metrics.items():
            metric.load_state_dict(kept["metrics"][name])
            metric.to(device)
        for name in KEPT:
            setattr(self, name, kept[name])

    def _update(self) -> None:
        """Update the loss and the metrics with the collected steps, joined where their shapes agree."""
        steps, self.steps = self.steps, []
        for _, block in groupby(steps, lambda step: [t.shape[1:] for t in list_tensors(step[1:])]):
            losses, *parts = zip(*block, strict=True)
            sizes = [count_samples(target) for target in parts[1]]
            outputs, targets = (torch.cat(part) if len(part) > 1 else part[0] for part in parts)
            self.samples += sum(sizes)
            self._add_losses(torch.stack(losses).float(), sizes, outputs, targets)
            for metric in self.metrics.values():
                self._update_with(metric, outputs, targets)

    def _add_losses(self, losses: Tensor, sizes: list[int], outputs: Any, targets: Any) -> None:
        """Add losses `(batches,)`, each a mean or sum over its batch."""
        weights = weigh_targets(self.criterion, self.task.for_loss(outputs, targets, self.takes)[1])
        if weights is None:
            weights = torch.ones(sum(sizes), device=losses.device)
        batches = torch.stack([part.sum() for part in weights.reshape(sum(sizes), -1).split(sizes)])
        if getattr(self.criterion, "reduction", "mean") != "sum":
            losses = losses * batches
        # a batch in which no target counts has a NaN loss and no weight
        self.loss = self.loss + torch.where(batches > 0, losses, 0).sum()
        self.weight = self.weight + batches.sum()

    def _update_with(self, metric: torchmetrics.Metric, outputs: Any, targets: Any) -> None:
        take = self.task.for_loss if getattr(metric, "takes", "") == "outputs" else self.task.for_metrics
        metric.update(*take(outputs, targets))


def list_tensors(value: Any) -> list[Tensor]:
    """Return the tensors in nested tuples, lists and dicts."""
    found: list[Tensor] = []
    apply_to_collection(value, Tensor, found.append)
    return found


def count_samples(value: Any) -> int:
    """Return the length of the first tensor of a value, 1 for a number."""
    tensors = list_tensors(value)
    return len(tensors[0]) if tensors and tensors[0].dim() else 1


def compute_numbers(name: str, metric: torchmetrics.Metric) -> dict[str, Tensor]:
    """Return a metric's value by name; if it has several, such as one per output, their mean."""
    with warnings.catch_warnings():
        # if a class has no samples, torchmetrics returns 0 and warns
        warnings.filterwarnings("error", message="(?s).*should be meaningless")
        value = metric.compute()
    parts = {f"{name}_{key}": v for key, v in value.items()} if isinstance(value, dict) else {name: value}
    return {key: torch.as_tensor(part).cpu().double().mean().float() for key, part in parts.items()}


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
            raise ArithmeticError("the targets do not vary")
        return super().compute()
