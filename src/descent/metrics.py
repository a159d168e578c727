"""The mean loss and the metrics over the samples of an epoch, at almost no cost per step."""

from collections.abc import Callable, Mapping
from copy import deepcopy
from functools import partial
from inspect import signature
from typing import Any

import torch
import torchmetrics
from torch import Tensor

from descent.errors import blame, require
from descent.scaling import Scaling

ROWS = 16_384  # samples that are kept until the metrics get them: few calls, and not much memory


class EpochMetrics:
    """Collects what the steps of an epoch produce, and updates the metrics with it in blocks.

    A step only appends to a list. torchmetrics gets blocks of thousands of samples, so its cost (about
    0.7 ms an update, whatever the batch) no longer shows, nothing waits for the device inside the loop, and
    any metric of torchmetrics can be used, in one process or in many.

    Args:
        metrics: torchmetrics by name. They are updated with probabilities `(n, classes)` and class indices
            `(n,)`, or with predicted and true values `(n, outputs)` in the target's own units. A metric that
            says `takes = "outputs"` gets the network's outputs in place of the probabilities.
        scaling: turns the network's outputs into probabilities or into those units.
    """

    def __init__(self, metrics: Mapping[str, torchmetrics.Metric], scaling: Scaling) -> None:
        self.metrics = {name: metric.clone() for name, metric in metrics.items()}
        self.scaling = deepcopy(scaling)  # a copy stays in float32, whatever the precision of the run
        self.steps: list[tuple[Tensor, Tensor, Tensor]] = []  # that the metrics have not got yet
        self.loss = torch.tensor(0.0)  # summed over the samples
        self.samples, self.batch = 0, -1

    def add(self, batch: int, loss: Tensor, outputs: Tensor, targets: Tensor) -> None:
        """Record batch number `batch`: its mean loss, outputs `(size, outputs)` and targets `(size, ...)`."""
        if batch == self.batch:
            return  # LBFGS evaluates a batch several times; the first time counts
        self.batch = batch
        self.steps.append((loss, outputs, targets))
        if len(self.steps) * targets.shape[0] >= ROWS:  # quicker than len(targets)
            self._update()

    def reset(self, device: torch.device) -> None:
        """Forget everything, and expect what comes next on `device`."""
        self.steps, self.loss, self.samples, self.batch = [], torch.tensor(0.0, device=device), 0, -1
        self._move(device)
        for metric in self.metrics.values():
            metric.reset()

    def state_dict(self) -> dict[str, Any]:
        """Return all that was recorded since the last reset: plain values, and copies of tensors on the CPU.

        It does not update the metrics, because sums over other blocks would round differently.
        """
        return {
            "steps": [tuple(value.cpu().clone() for value in step) for step in self.steps],
            "loss": self.loss.cpu(),
            "samples": self.samples,
            "batch": self.batch,
            "metrics": {name: take_sums(metric) for name, metric in self.metrics.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any], device: torch.device) -> None:
        """Go on from what `state_dict` returned."""
        self.steps = [tuple(value.to(device) for value in step) for step in state["steps"]]
        self.loss, self.samples, self.batch = state["loss"].to(device), state["samples"], state["batch"]
        for name, metric in self.metrics.items():
            for key, value in state["metrics"][name].items():
                setattr(metric, key, value)
            metric.to(device)
        self._move(device)

    def compute(self) -> dict[str, Tensor]:
        """Return loss and metrics over the samples of all processes since the last reset, scalar tensors."""
        self._update()
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            totals = torch.stack([self.loss, self.loss.new_tensor(self.samples)])
            torch.distributed.all_reduce(totals)
            mean = totals[0] / totals[1]
        else:
            mean = self.loss / self.samples
        # a metric of several values, such as one for each output, is their mean
        values = {name: metric.compute().float().mean() for name, metric in self.metrics.items()}
        return {"loss": mean, **values}

    def _move(self, device: torch.device) -> None:
        if device != self.scaling.target_mean.device:
            self.scaling.to(device)
        for metric in self.metrics.values():
            if device != metric.device:
                metric.to(device)

    def _update(self) -> None:
        """Update the loss and the metrics with the steps that are kept."""
        if not self.steps:
            return
        losses, outputs, targets = zip(*self.steps, strict=True)
        self.steps = []
        lengths = [t.shape[0] for t in targets]
        self.samples += sum(lengths)
        # each batch's mean counts as often as it has samples; from pinned memory the copy does not wait
        device = losses[0].device
        sizes = torch.tensor(lengths, dtype=torch.float32, pin_memory=device.type == "cuda")
        self.loss = self.loss + (torch.stack(losses).float() * sizes.to(device, non_blocking=True)).sum()
        predicted, expected = torch.cat(outputs).float(), torch.cat(targets)
        if expected.is_floating_point():
            expected = self.scaling.unscale_values(expected)
        units = None
        for metric in self.metrics.values():
            if getattr(metric, "takes", None) == "outputs":
                metric.update(predicted, expected)
            else:
                units = self.scaling.unscale(predicted) if units is None else units
                metric.update(units, expected)


class Accuracy(torchmetrics.Metric):
    """The share of samples whose largest output is that of their class, as the tutorial counts it.

    `MulticlassAccuracy(average="micro")` gives the same but runs five times as much Python.
    """

    takes = "outputs"  # the largest output is the largest probability
    correct: Tensor
    samples: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("correct", torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("samples", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        """Count outputs `(n, classes)` and class indices `(n,)`, int64."""
        self.correct += (outputs.argmax(1) == targets).sum()
        self.samples += targets.shape[0]

    def compute(self) -> Tensor:
        """Return the share, a scalar from 0 to 1."""
        return self.correct / self.samples


def size_metrics(chosen: Mapping[str, Any], task: str, outputs: int) -> dict[str, torchmetrics.Metric]:
    """Make the metrics that the config chooses ready for the data, and try each on a small batch.

    Args:
        chosen: metrics by name, or partials that take `num_classes` or `num_outputs`. Those below the name
            of a task, "classification" or "regression", are for that task alone.
        task: of the data.
        outputs: number of classes, or of target values.

    Raises:
        ConfigError: a metric does not take this task's outputs and targets.
    """
    named = {name: part for name, part in chosen.items() if name not in ("classification", "regression")}
    sized = {}
    for name, part in {**chosen.get(task, {}), **named}.items():
        with blame(f"metrics.{name}"):
            sized[name] = metric = size(part, task, outputs) if isinstance(part, partial) else part
            require(isinstance(metric, torchmetrics.Metric), f"metrics.{name}", metric, "a metric")
            if task == "classification":
                inputs = torch.eye(outputs), torch.arange(outputs)
            else:
                inputs = torch.eye(3, outputs), torch.ones(3, outputs).tril()
            metric.clone().update(*inputs)
    return sized


def size(metric: Callable[..., torchmetrics.Metric], task: str, outputs: int) -> torchmetrics.Metric:
    """Build a metric, and tell it the number of classes or target values if it takes that."""
    name = "num_classes" if task == "classification" else "num_outputs"
    return metric(**({name: outputs} if name in signature(metric).parameters else {}))


def take_sums(metric: torchmetrics.Metric) -> dict[str, Any]:
    """Return what a metric has summed up, and how often it was updated; its `state_dict` lacks some of it."""
    names = (*metric._defaults, "_update_count")
    return {name: to_cpu(getattr(metric, name)) for name in names}


def to_cpu(value: Any) -> Any:
    """Copy a tensor, or each tensor of a list, to the CPU; return anything else as it is."""
    if isinstance(value, list):
        return [to_cpu(item) for item in value]
    return value.cpu() if isinstance(value, Tensor) else value


def list_logged(metrics: Mapping[str, torchmetrics.Metric]) -> list[str]:
    """Return what a run logs and what can be monitored: "train/loss", "val/acc", …"""
    return [f"{stage}/{name}" for stage in ("train", "val") for name in ("loss", *metrics)]
