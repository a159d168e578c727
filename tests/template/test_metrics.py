"""An epoch's figures are means over its samples, in each task's units; any torchmetrics can be chosen."""

import math
from typing import Any

import numpy as np
import pytest
import torch
import torchmetrics
from small import data_of, supervised, trainer
from torch import nn
from torch.nn import functional as F
from torchmetrics import classification

from descent.data.diabetes import diabetes
from descent.errors import ConfigError
from descent.metrics import R2, ROWS, Accuracy, EpochMetrics
from descent.task import IGNORED, Classes, Task, Values

OF_VALUES = {"mae": torchmetrics.MeanAbsoluteError(), "r2": R2()}
FULL: dict[str, Any] = {
    "auroc": classification.MulticlassAUROC,
    "f1": classification.MulticlassF1Score,
    "ece": classification.MulticlassCalibrationError,
}


def full(classes: int) -> dict[str, Any]:
    return {n: metric(num_classes=classes, ignore_index=IGNORED) for n, metric in FULL.items()}


def collect(task: Task, chosen: Any, outputs: Any, targets: Any, size: int = 32, losses: Any = None) -> Any:
    """Return what an epoch's metrics are, and the collector; the loss is 0 if there are no losses."""
    metrics = EpochMetrics(chosen, task, nn.Identity())
    losses = torch.zeros(len(targets)) if losses is None else losses
    parts = zip(outputs.split(size), targets.split(size), losses.split(size), strict=True)
    for number, (output, target, loss) in enumerate(parts):
        metrics.add(number, loss.mean(), output, target)
    return {name: value.item() for name, value in metrics.compute().items()}, metrics


@pytest.mark.parametrize(("n", "size"), [(100, 1), (100, 64), (2 * ROWS + 5, 512)])
def test_neither_a_smaller_last_batch_nor_more_samples_than_are_kept_skew_means(n: int, size: int) -> None:
    outputs, targets = torch.randn(n, 10), torch.randint(10, (n,))
    losses = torch.arange(float(n)) ** 2  # the last samples weigh most
    found, metrics = collect(Classes("0123456789"), {"acc": Accuracy()}, outputs, targets, size, losses)
    assert metrics.samples == n
    assert found["loss"] == pytest.approx(losses.double().mean().item(), rel=1e-6)
    assert found["acc"] == pytest.approx((outputs.argmax(1) == targets).double().mean().item())


def test_large_outputs_are_kept_by_bytes_and_joined_only_where_shapes_agree() -> None:
    metrics = EpochMetrics({"acc": Accuracy()}, Classes("abc"), nn.Identity())
    right = n = 0
    for number, side in enumerate([600, 600, 8, 16, 16, 600]):
        outputs, targets = torch.randn(2, 3, side, side), torch.randint(3, (2, side, side))
        metrics.add(number, torch.tensor(0.0), outputs, targets)
        assert sum(output.nbytes for _, output, _ in metrics.steps) < 2 << 24
        right, n = right + int((outputs.argmax(1) == targets).sum()), n + targets.numel()
    assert metrics.compute()["acc"].item() == pytest.approx(right / n)


def test_a_batch_that_an_optimizer_evaluates_again_counts_once() -> None:
    metrics = EpochMetrics({"acc": Accuracy()}, Classes("ab"), nn.CrossEntropyLoss())
    right, wrong, targets = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]]), torch.tensor([0])
    metrics.add(0, torch.tensor(1.0), right, targets)
    metrics.add(0, torch.tensor(9.0), wrong, targets)  # L-BFGS looks again
    assert {k: v.item() for k, v in metrics.compute().items()} == {"loss": 1.0, "acc": 1.0}


def test_what_was_recorded_goes_on_bit_for_bit_metrics_that_keep_everything_included() -> None:
    whole, first, second = (EpochMetrics(full(4), Classes("abcd"), nn.CrossEntropyLoss()) for _ in range(3))
    for number in range(6):
        output, target = torch.randn(50, 4), torch.randint(4, (50,))
        for metrics in (whole, first if number < 3 else second):
            metrics.add(number, output.mean(), output, target)
            if number == 1:
                metrics._update()
        if number == 2:
            second.load_state_dict(first.state_dict(), torch.device("cpu"))
    assert whole.compute() == second.compute()


@pytest.mark.parametrize("pixels", [False, True])
def test_metrics_of_classes_see_probabilities_of_what_counts_as_in_one_call_on_all(pixels: bool) -> None:
    outputs, targets = 0.3 * torch.randn(200, 4), torch.randint(4, (200,))
    if pixels:
        outputs, targets = torch.randn(10, 4, 6, 5), torch.randint(4, (10, 6, 5))
        targets[:, :2] = IGNORED
    chosen = {"acc": Accuracy(), **full(4)}
    found, metrics = collect(Classes("abcd"), chosen, outputs, targets, 3)
    kept = targets != IGNORED
    flat, classes = outputs.movedim(1, -1)[kept].softmax(1), targets[kept]
    assert metrics.samples == len(outputs)
    assert found["acc"] == pytest.approx((flat.argmax(1) == classes).float().mean().item())
    for name, metric in FULL.items():
        assert found[name] == pytest.approx(metric(num_classes=4)(flat, classes).item(), abs=1e-6), name
    if not pixels:  # mixed targets are counted by their largest share
        mixed = 0.7 * F.one_hot(targets, 4) + 0.3 * F.one_hot(targets.roll(1), 4)
        again, _ = collect(Classes("abcd"), chosen, outputs, mixed, 3)
        assert again == found


def test_a_class_without_a_sample_leaves_a_metric_undefined_with_a_reason_and_not_0() -> None:
    targets = torch.tensor([0, 1] * 20)
    chosen = {"auroc": FULL["auroc"](num_classes=3)}
    found, metrics = collect(Classes("abc"), chosen, 10 * F.one_hot(targets, 3).float(), targets)
    assert math.isnan(found["auroc"])
    assert metrics.undefined["auroc"].startswith("No positive samples in targets")
    metrics.try_out(F.one_hot(targets, 3).float(), targets)  # one batch may lack a class


@pytest.mark.parametrize(("start", "unit"), [(1.7e9, 1.0), (5e-7, 1e-9), (1e30, 1e27), (-3.0, 20.0)])
def test_mae_and_r2_are_those_of_numpy_in_float64_whatever_the_units(start: float, unit: float) -> None:
    random = np.random.default_rng(0)
    true = start + unit * random.normal(size=(300, 2)) * [1, 3]
    task = Values("ab", torch.tensor(true.mean(0)), torch.tensor(true.std(0)))
    standard = task.standardise(torch.tensor(true))
    outputs = torch.tensor(random.normal(size=(300, 2))).float() * 0.3 + standard
    found, _ = collect(task, OF_VALUES, outputs, standard, 37)
    predicted = outputs.double().numpy() * true.std(0) + true.mean(0)
    assert found["mae"] == pytest.approx(np.abs(predicted - true).mean(), rel=1e-6)
    r2 = 1 - ((predicted - true) ** 2).sum(0) / ((true - true.mean(0)) ** 2).sum(0)
    assert found["r2"] == pytest.approx(r2.mean(), abs=1e-6)


def test_r2_of_a_constant_target_is_not_defined() -> None:
    task = Values("y", torch.tensor([1.7e9]), torch.tensor([20.0]))
    for true in (torch.full((50, 1), 1.7e9 + 0.3), torch.full((1, 1), 2.0), torch.zeros(50, 1)):
        found, metrics = collect(task, OF_VALUES, torch.randn(len(true), 1), task.standardise(true))
        assert (math.isnan(found["r2"]), math.isfinite(found["mae"])) == (True, True)
        assert metrics.undefined == {"r2": "the targets do not vary"}


class Several(torchmetrics.Metric):
    """Returns what it is told to, such as a dict, or what is no number."""

    def __init__(self, value: Any) -> None:
        super().__init__()
        self.value, self.seen = value, list[Any]()

    def update(self, outputs: Any, targets: Any) -> None:
        self.seen.append((outputs, targets))

    def compute(self) -> Any:
        return self.value


@pytest.mark.filterwarnings("ignore:Metric .SpearmanCorrcoef. will save all")
def test_a_metric_of_another_task_is_one_line_that_names_it() -> None:
    for data, criterion, chosen in (
        (data_of(), None, {"mae": torchmetrics.SpearmanCorrCoef()}),
        (data_of(diabetes), nn.L1Loss(), full(4)),
        (data_of(), None, {"curve": Several([torch.zeros(2)])}),
    ):
        module = supervised(data, criterion=criterion, metrics=chosen)
        line = rf"^metrics\.{next(iter(chosen))}: expected valid values"
        with pytest.raises(ConfigError, match=line):
            trainer().fit(module, datamodule=data)


def test_outputs_may_be_nested_tuples_and_dicts_and_a_metric_may_be_several_numbers() -> None:
    metrics = EpochMetrics({"sees": Several({"a": 1.0, "b": torch.ones(2)})}, Task(), nn.Identity())
    for number, n in enumerate((3, 2)):
        outputs = {"mean": torch.ones(n, 2), "rest": (torch.zeros(n), torch.zeros(n, 3))}
        metrics.add(number, torch.tensor(float(number)), outputs, torch.zeros(n))
    metrics.load_state_dict(metrics.state_dict(), torch.device("cpu"))
    assert metrics.compute() == {"loss": torch.tensor(0.4), "sees_a": 1.0, "sees_b": 1.0}
    seen: Any = metrics.metrics["sees"]
    assert [len(outputs["mean"]) for outputs, _ in seen.seen] == [3, 2]
