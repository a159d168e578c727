"""Criteria against their formulas."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from descent.errors import ConfigError
from descent.losses import MeanAbsoluteError, fit_to_task


def test_mean_absolute_error_by_hand() -> None:
    input = torch.tensor([[1.0, -2.0], [0.5, 4.0], [0.0, 0.0]])
    target = torch.tensor([[0.0, 2.0], [0.5, 1.0], [-1.0, 0.25]])
    by_hand = (1 / 3) * ((1 + 4) + (0 + 3) + (1 + 0.25))
    assert MeanAbsoluteError()(input, target).item() == pytest.approx(by_hand)


def test_it_sums_over_outputs_where_l1_loss_divides_by_them() -> None:
    input, target = torch.randn(6, 5), torch.randn(6, 5)
    assert torch.allclose(MeanAbsoluteError()(input, target), 5 * nn.L1Loss()(input, target))
    assert torch.allclose(
        MeanAbsoluteError()(input[:, :1], target[:, :1]), nn.L1Loss()(input[:, :1], target[:, :1])
    )


def test_its_gradient_is_the_sign_of_the_error_over_the_length() -> None:
    input = torch.randn(8, 3, dtype=torch.float64, requires_grad=True)
    target = torch.randn(8, 3, dtype=torch.float64)
    MeanAbsoluteError()(input, target).backward()
    assert torch.equal(input.grad, torch.sign(input.detach() - target) / len(input))  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", [(4,), (1, 1), (4, 2), (1, 4)])
def test_shapes_that_differ_raise_and_are_named(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"\(4, 1\).*" + str(shape).replace("(", r"\(").replace(")", r"\)")):
        MeanAbsoluteError()(torch.zeros(4, 1), torch.zeros(shape))


LOGITS, CLASSES = torch.randn(7, 4, generator=torch.Generator().manual_seed(0)), torch.arange(7) % 4
PROBABILITIES, ONE_HOT = LOGITS.softmax(1), F.one_hot(CLASSES, 4).float()


@pytest.mark.parametrize(
    ("criterion", "expected"),
    [
        # Ghosh et al. (2017): 2 - 2 p(true class)
        (MeanAbsoluteError(), (2 - 2 * PROBABILITIES[range(7), CLASSES]).mean()),
        (nn.L1Loss(), (2 - 2 * PROBABILITIES[range(7), CLASSES]).mean()),
        # Brier (1950)
        (nn.MSELoss(), ((PROBABILITIES - ONE_HOT) ** 2).sum(1).mean()),
        (nn.MSELoss(reduction="sum"), ((PROBABILITIES - ONE_HOT) ** 2).sum()),
        (nn.CrossEntropyLoss(), -PROBABILITIES[range(7), CLASSES].log().mean()),
        (nn.NLLLoss(), -PROBABILITIES[range(7), CLASSES].log().mean()),
        (nn.BCEWithLogitsLoss(), F.binary_cross_entropy(LOGITS.sigmoid(), ONE_HOT) * 4),
    ],
)
def test_a_loss_meets_class_targets_as_its_formula_says(criterion: nn.Module, expected: torch.Tensor) -> None:
    assert torch.allclose(fit_to_task(criterion, "classification")(LOGITS, CLASSES), expected)


def test_values_meet_values_unchanged() -> None:
    criterion = MeanAbsoluteError()
    assert fit_to_task(criterion, "regression") is criterion


def test_a_loss_on_classes_is_refused_for_real_valued_targets() -> None:
    with pytest.raises(ConfigError, match="loss=CrossEntropyLoss: expected a loss on values"):
        fit_to_task(nn.CrossEntropyLoss(), "regression")


def test_a_loss_that_is_not_one_number_is_refused() -> None:
    with pytest.raises(ConfigError, match="reduction=none: expected mean or sum"):
        fit_to_task(nn.MSELoss(reduction="none"), "regression")
