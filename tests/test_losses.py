"""Criteria against their formulas, and criteria of one's own."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from descent.errors import ConfigError
from descent.losses import MeanAbsoluteError, adapt, by_task, size_loss


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
        (nn.BCELoss(), F.binary_cross_entropy(PROBABILITIES, ONE_HOT) * 4),
        (nn.MultiLabelSoftMarginLoss(), F.binary_cross_entropy(LOGITS.sigmoid(), ONE_HOT)),
        (nn.MultiMarginLoss(), F.multi_margin_loss(LOGITS, CLASSES)),
    ],
)
def test_a_loss_meets_class_targets_as_its_formula_says(criterion: nn.Module, expected: Tensor) -> None:
    assert torch.allclose(adapt(criterion, "classification", 4)(LOGITS, CLASSES), expected)


def test_values_meet_values_unchanged() -> None:
    criterion = MeanAbsoluteError()
    assert adapt(criterion, "regression", 2) is criterion


class Focal(nn.Module):
    """Lin et al. (2017); of logits and class indices, and says nothing of what it takes."""

    def __init__(self, gamma: float = 2.0) -> None:
        super().__init__()
        self.gamma = gamma

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        log_p = input.log_softmax(1).gather(1, target.unsqueeze(1)).squeeze(1)
        return (-((1 - log_p.exp()) ** self.gamma) * log_p).mean()


class Difference(nn.Module):
    """Compares values, and does not say so."""

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return (input - target).abs().mean()


class SaysValues(Difference):
    takes = "values"


class SaysNonsense(Difference):
    takes = "value"


class Constant(nn.Module):
    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return torch.tensor(1.0)


class Buggy(nn.Module):
    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return forgotten  # type: ignore[name-defined] # noqa: F821


def test_a_criterion_of_ones_own_gets_logits_and_classes_or_values_and_values() -> None:
    focal = Focal(gamma=0.0)
    assert adapt(focal, "classification", 4) is focal
    assert torch.allclose(focal(LOGITS, CLASSES), F.cross_entropy(LOGITS, CLASSES))
    assert adapt(Difference(), "regression", 3)(torch.ones(2, 3), torch.zeros(2, 3)) == 1


def test_one_on_values_says_so_and_sees_probabilities_and_the_one_hot_class() -> None:
    found = adapt(SaysValues(), "classification", 4)(LOGITS, CLASSES)
    assert torch.allclose(found, (PROBABILITIES - ONE_HOT).abs().mean())


@pytest.mark.parametrize("classes", [2, 3, 4, 10])
def test_a_criterion_that_does_not_fit_is_one_line_whatever_the_number_of_classes(classes: int) -> None:
    with pytest.raises(ConfigError, match=r'^loss: expected a criterion that takes .*takes = "values"$'):
        adapt(Difference(), "classification", classes)


@pytest.mark.parametrize(
    ("criterion", "task", "line"),
    [
        (nn.CrossEntropyLoss(), "regression", "loss: expected a loss on values .*not CrossEntropyLoss"),
        (nn.MSELoss(reduction="none"), "regression", r"loss: expected one number .*mean or sum.*\(3, 2\)"),
        (nn.CrossEntropyLoss(torch.ones(5)), "classification", "loss: expected .*weight"),
        (SaysNonsense(), "classification", "loss.takes=value: expected one of .*; nearest: values"),
        (Constant(), "classification", "loss: expected a loss that depends on the model's outputs"),
    ],
)
def test_a_loss_that_cannot_be_meant_is_one_line(criterion: nn.Module, task: str, line: str) -> None:
    with pytest.raises(ConfigError, match=line):
        adapt(criterion, task, 2)


def test_a_bug_in_a_criterion_is_no_fault_of_the_config() -> None:
    with pytest.raises(NameError):
        adapt(Buggy(), "classification", 3)


def test_trying_a_loss_draws_nothing() -> None:
    class Noisy(nn.Module):
        def forward(self, input: Tensor, target: Tensor) -> Tensor:
            return (input + torch.randn_like(input)).mean()

    before = torch.get_rng_state()
    adapt(Noisy(), "classification", 3)
    assert torch.equal(before, torch.get_rng_state())


def test_balanced_weights_make_all_classes_count_alike() -> None:
    weights = size_loss({"weight": "balanced", "pos_weight": "balanced"}, "classification", [10, 30, 60])
    assert torch.allclose(weights["weight"] * torch.tensor([10, 30, 60]), torch.full((3,), 100 / 3))
    assert torch.allclose(weights["pos_weight"], torch.tensor([9.0, 70 / 30, 40 / 60]))
    assert size_loss({"weight": [1, 2.5]}, "classification", [3, 4])["weight"].tolist() == [1, 2.5]
    assert size_loss({"weight": None, "reduction": "mean"}, "classification", [3, 4]) == {}


@pytest.mark.parametrize("counts", [[], [3, 0]])
def test_balanced_weights_need_a_sample_of_each_class(counts: Any) -> None:
    with pytest.raises(ConfigError, match=r"loss\.weight=balanced: expected a training sample of each class"):
        size_loss({"weight": "balanced"}, "classification", counts)


def test_the_default_loss_follows_from_the_task() -> None:
    values = MeanAbsoluteError()
    for task, expected in (("classification", nn.CrossEntropyLoss), ("regression", MeanAbsoluteError)):
        arguments = size_loss({"task": None, "weight": None}, task, [1, 1])
        assert type(by_task(classes=nn.CrossEntropyLoss, values=values, **arguments)) is expected
