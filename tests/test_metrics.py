"""An epoch's figures are means over its samples."""

import pytest
import torch
from torch import Tensor

from descent.metrics import ROWS, EpochMetrics, task_metrics

NOTHING = torch.zeros(1), torch.ones(1)


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
    figures = collect(
        EpochMetrics(task_metrics("classification", 10), *NOTHING), outputs, targets, losses, size
    )
    assert figures["loss"] == pytest.approx(losses.mean().item(), rel=1e-6)
    assert figures["acc"] == pytest.approx((outputs.argmax(1) == targets).float().mean().item())


def test_values_are_reported_in_their_own_units() -> None:
    outputs, targets = torch.randn(50, 1), torch.randn(50, 1)
    mean, std = torch.tensor([100.0]), torch.tensor([20.0])
    figures = collect(
        EpochMetrics(task_metrics("regression", 1), mean, std), outputs, targets, torch.zeros(50), 8
    )
    assert figures["mae"] == pytest.approx(20 * (outputs - targets).abs().mean().item(), rel=1e-5)
    r2 = 1 - ((outputs - targets) ** 2).sum() / ((targets - targets.mean()) ** 2).sum()
    assert figures["r2"] == pytest.approx(r2.item(), rel=1e-4)


def test_more_samples_than_are_kept_at_once_change_nothing() -> None:
    n = 2 * ROWS + 5
    outputs, targets, losses = torch.randn(n, 3), torch.randint(3, (n,)), torch.rand(n)
    metrics = EpochMetrics(task_metrics("classification", 3), *NOTHING)
    figures = collect(metrics, outputs, targets, losses, 512)
    assert metrics.samples == n
    assert figures["acc"] == pytest.approx((outputs.argmax(1) == targets).float().mean().item())
    assert figures["loss"] == pytest.approx(losses.mean().item(), rel=1e-5)


def test_a_batch_that_an_optimizer_evaluates_again_counts_once() -> None:
    metrics = EpochMetrics(task_metrics("classification", 2), *NOTHING)
    right, wrong, targets = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]]), torch.tensor([0])
    metrics.add(0, torch.tensor(1.0), right, targets)
    metrics.add(0, torch.tensor(9.0), wrong, targets)  # L-BFGS looks again
    assert {k: v.item() for k, v in metrics.compute().items()} == {"loss": 1.0, "acc": 1.0}
