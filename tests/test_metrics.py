"""An epoch's figures are means over its samples; any torchmetrics can be chosen."""

from functools import partial
from typing import Any

import pytest
import torch
import torchmetrics
from torch import Tensor

from descent.errors import ConfigError
from descent.metrics import ROWS, Accuracy, EpochMetrics, size_metrics
from descent.scaling import Scaling

DEFAULT: dict[str, Any] = {
    "classification": {"acc": Accuracy()},
    "regression": {"mae": partial(torchmetrics.MeanAbsoluteError), "r2": partial(torchmetrics.R2Score)},
}

SAVES = pytest.mark.filterwarnings("ignore:Metric .SpearmanCorrcoef. will save all")  # of what was chosen


def collector(
    task: str, outputs: int, chosen: Any = None, mean: float = 0.0, std: float = 1.0
) -> EpochMetrics:
    units = torch.tensor([mean]), torch.tensor([std])
    scaling = Scaling(
        torch.zeros(1), torch.ones(1), *units, activation="none" if task == "regression" else "softmax"
    )
    return EpochMetrics(size_metrics(chosen or DEFAULT, task, outputs), scaling)


def collect(
    metrics: EpochMetrics, outputs: Tensor, targets: Tensor, losses: Tensor, size: int
) -> dict[str, float]:
    metrics.reset(torch.device("cpu"))
    parts = zip(outputs.split(size), targets.split(size), losses.split(size), strict=True)
    for number, (output, target, loss) in enumerate(parts):
        metrics.add(number, loss.mean(), output, target)
    return {name: value.item() for name, value in metrics.compute().items()}


@pytest.mark.parametrize("size", [1, 7, 64, 1000])
def test_a_smaller_last_batch_does_not_skew_the_means(size: int) -> None:
    outputs, targets = torch.randn(100, 10), torch.randint(10, (100,))
    losses = torch.arange(100.0) ** 2  # the last samples weigh most
    figures = collect(collector("classification", 10), outputs, targets, losses, size)
    assert figures["loss"] == pytest.approx(losses.mean().item(), rel=1e-6)
    assert figures["acc"] == pytest.approx((outputs.argmax(1) == targets).float().mean().item())


def test_values_are_reported_in_their_own_units() -> None:
    outputs, targets = torch.randn(50, 1), torch.randn(50, 1)
    figures = collect(collector("regression", 1, mean=100.0, std=20.0), outputs, targets, torch.zeros(50), 8)
    assert figures["mae"] == pytest.approx(20 * (outputs - targets).abs().mean().item(), rel=1e-5)
    r2 = 1 - ((outputs - targets) ** 2).sum() / ((targets - targets.mean()) ** 2).sum()
    assert figures["r2"] == pytest.approx(r2.item(), rel=1e-4)


def test_more_samples_than_are_kept_at_once_change_nothing() -> None:
    n = 2 * ROWS + 5
    outputs, targets, losses = torch.randn(n, 3), torch.randint(3, (n,)), torch.rand(n)
    metrics = collector("classification", 3)
    figures = collect(metrics, outputs, targets, losses, 512)
    assert metrics.samples == n
    assert figures["acc"] == pytest.approx((outputs.argmax(1) == targets).float().mean().item())
    assert figures["loss"] == pytest.approx(losses.mean().item(), rel=1e-5)


def test_a_batch_that_an_optimizer_evaluates_again_counts_once() -> None:
    metrics = collector("classification", 2)
    right, wrong, targets = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]]), torch.tensor([0])
    metrics.add(0, torch.tensor(1.0), right, targets)
    metrics.add(0, torch.tensor(9.0), wrong, targets)  # L-BFGS looks again
    assert {k: v.item() for k, v in metrics.compute().items()} == {"loss": 1.0, "acc": 1.0}


FULL: dict[str, Any] = {
    "auroc": partial(torchmetrics.classification.MulticlassAUROC),
    "f1": partial(torchmetrics.classification.MulticlassF1Score),
    "ece": partial(torchmetrics.classification.MulticlassCalibrationError),
}


def test_metrics_of_classes_see_probabilities_and_agree_with_one_call_on_everything() -> None:
    outputs, targets = 0.3 * torch.randn(200, 4), torch.randint(4, (200,))
    figures = collect(collector("classification", 4, FULL), outputs, targets, torch.zeros(200), 32)
    for name, metric in FULL.items():
        expected = metric(num_classes=4)(outputs.softmax(1), targets)
        assert figures[name] == pytest.approx(expected.item(), abs=1e-6), name


@SAVES
@pytest.mark.parametrize("outputs", [1, 3])
def test_metrics_of_values_are_sized_and_averaged_over_the_targets(outputs: int) -> None:
    chosen: Any = {"spearman": partial(torchmetrics.SpearmanCorrCoef), **DEFAULT["regression"]}
    predicted, targets = torch.randn(60, outputs), torch.randn(60, outputs)
    figures = collect(collector("regression", outputs, chosen), predicted, targets, torch.zeros(60), 16)
    each = [torchmetrics.functional.spearman_corrcoef(predicted[:, i], targets[:, i]) for i in range(outputs)]
    assert figures["spearman"] == pytest.approx(torch.stack(each).mean().item(), abs=1e-5)
    assert figures["mae"] == pytest.approx((predicted - targets).abs().mean().item(), rel=1e-5)


def test_what_was_recorded_goes_on_bit_for_bit_metrics_that_keep_everything_included() -> None:
    outputs, targets = torch.randn(300, 4), torch.randint(4, (300,))
    whole, first, second = (collector("classification", 4, FULL) for _ in range(3))
    for metrics in (whole, first):
        metrics.reset(torch.device("cpu"))
    for number, (output, target) in enumerate(zip(outputs.split(50), targets.split(50), strict=True)):
        whole.add(number, output.mean(), output, target)
        (first if number < 3 else second).add(number, output.mean(), output, target)
        for metrics in (whole, first):
            if number == 1:
                metrics._update()
        if number == 2:
            second.load_state_dict(first.state_dict(), torch.device("cpu"))
    assert whole.compute() == second.compute()


@SAVES
def test_a_metric_of_another_task_is_one_line_that_names_it() -> None:
    for chosen, task in (
        ({"mae": partial(torchmetrics.SpearmanCorrCoef)}, "classification"),
        (FULL, "regression"),
    ):
        name = next(iter(chosen))
        with pytest.raises(ConfigError, match=rf"^metrics\.{name}: expected values that it takes"):
            size_metrics(chosen, task, 4)
