"""Criteria against their formulas, whatever the size of the batches; and criteria of one's own."""

import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from small import data_of, supervised, tensors, train_here, trainer
from torch import Tensor, nn
from torch.nn import functional as F

from descent.errors import ConfigError
from descent.losses import MeanAbsoluteError, weigh_classes
from descent.metrics import EpochMetrics
from descent.module import Supervised
from descent.task import IGNORED, Classes, Labels, Task, Tokens, Values
from descent.trial import try_out


def loss_of(criterion: nn.Module, task: Task, outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the loss of a batch as `Supervised` computes it."""
    module = Supervised(nn.Identity(), criterion, torch.optim.SGD, task=task)
    return module.compute_loss(None, outputs, targets)


def test_mean_absolute_error_its_gradient_and_its_refusal_of_other_shapes_by_hand() -> None:
    input = torch.tensor([[1.0, -2.0], [0.5, 4.0], [0.0, 0.0]], requires_grad=True)
    target = torch.tensor([[0.0, 2.0], [0.5, 1.0], [-1.0, 0.25]])
    loss = MeanAbsoluteError()(input, target)
    assert loss.item() == pytest.approx((1 / 3) * ((1 + 4) + (0 + 3) + (1 + 0.25)))
    assert torch.allclose(loss, 2 * nn.L1Loss()(input, target))
    assert MeanAbsoluteError()(input[:, :1], target[:, :1]) == nn.L1Loss()(input[:, :1], target[:, :1])
    loss.backward()
    assert torch.equal(input.grad, torch.sign(input.detach() - target) / 3)  # type: ignore[arg-type]
    for shape in ((4,), (1, 1), (4, 2), (1, 4)):
        with pytest.raises(ValueError, match=r"\(4, 1\).*" + re.escape(str(shape))):
            MeanAbsoluteError()(torch.zeros(4, 1), torch.zeros(shape))


LOGITS, CLASSES = torch.randn(7, 4, generator=torch.Generator().manual_seed(0)), torch.arange(7) % 4
P, ONE_HOT = LOGITS.softmax(1), F.one_hot(CLASSES, 4).float()


@pytest.mark.parametrize(
    ("criterion", "expected"),
    [
        (MeanAbsoluteError(), (2 - 2 * P[range(7), CLASSES]).mean()),  # Ghosh et al. (2017)
        (nn.MSELoss(), ((P - ONE_HOT) ** 2).sum(1).mean()),  # Brier (1950)
        (nn.MSELoss(reduction="sum"), ((P - ONE_HOT) ** 2).sum()),
        (nn.CrossEntropyLoss(), -P[range(7), CLASSES].log().mean()),
        (nn.NLLLoss(), -P[range(7), CLASSES].log().mean()),
        (nn.BCEWithLogitsLoss(), F.binary_cross_entropy(LOGITS.sigmoid(), ONE_HOT) * 4),
        (nn.BCELoss(), F.binary_cross_entropy(P, ONE_HOT) * 4),
        (nn.MultiLabelSoftMarginLoss(), F.binary_cross_entropy(LOGITS.sigmoid(), ONE_HOT)),
        (nn.MultiMarginLoss(), F.multi_margin_loss(LOGITS, CLASSES)),
    ],
)
def test_a_loss_meets_classes_and_mixed_ones_as_its_formula_says(criterion: Any, expected: Tensor) -> None:
    task = Classes("abcd")
    assert torch.allclose(loss_of(criterion, task, LOGITS, CLASSES), expected)
    if not isinstance(criterion, nn.NLLLoss | nn.MultiMarginLoss):  # which take no probabilities
        assert torch.allclose(loss_of(criterion, task, LOGITS, ONE_HOT), expected)


G = torch.Generator().manual_seed(1)
WEIGHT = torch.tensor([0.2, 1.0, 3.0, 0.0])
FOUR, MANY, TRUE = Classes("abcd"), torch.randn(203, 4, generator=G), torch.randint(4, (203,), generator=G)
HOLES = TRUE.masked_fill(torch.arange(203) % 5 == 0, IGNORED).masked_fill(torch.arange(203) < 24, IGNORED)
LINES = torch.randint(4, (203, 9), generator=G)
LINES[torch.arange(9) >= torch.randint(1, 9, (203, 1), generator=G)] = 0  # of any length
SPREAD, PIXELS = torch.randn(203, 4, 3, 3, generator=G), torch.randint(4, (203, 3, 3), generator=G)
PIXELS[SPREAD[:, 0] < 0] = IGNORED
CASES: dict[str, tuple[nn.Module, Task, Tensor, Tensor]] = {
    "weights": (nn.CrossEntropyLoss(WEIGHT), FOUR, MANY, TRUE),
    "ignored and weights": (nn.CrossEntropyLoss(WEIGHT), FOUR, MANY, HOLES),
    "smoothing": (nn.CrossEntropyLoss(WEIGHT + 1, label_smoothing=0.2), FOUR, MANY, HOLES),
    "nll": (nn.NLLLoss(WEIGHT), FOUR, MANY, HOLES),
    "another class ignored": (nn.CrossEntropyLoss(ignore_index=1), FOUR, MANY, TRUE),
    "sum": (nn.CrossEntropyLoss(reduction="sum"), FOUR, MANY, TRUE),
    "values": (nn.MSELoss(), FOUR, MANY, TRUE),
    "mixed": (nn.CrossEntropyLoss(), FOUR, MANY, F.one_hot(TRUE, 4).float()),
    "padding": (nn.CrossEntropyLoss(), Tokens("_abc", pad=0), torch.randn(203, 9, 4, generator=G), LINES),
    "pixels": (nn.CrossEntropyLoss(WEIGHT), FOUR, SPREAD, PIXELS),
}


@pytest.mark.parametrize("name", CASES)
def test_the_loss_of_an_epoch_is_that_of_its_samples_whatever_the_size_of_its_batches(name: str) -> None:
    criterion, task, outputs, targets = CASES[name]
    # torch's own, of all samples at once; a summed loss is shown as a mean over samples
    expected = loss_of(*CASES[name]).item() / (len(TRUE) if name == "sum" else 1)
    for size in (1, 8, 1024):
        metrics = EpochMetrics({}, task, criterion)
        for number, batch in enumerate(zip(outputs.split(size), targets.split(size), strict=True)):
            metrics.add(number, loss_of(criterion, task, *batch), *batch)
        assert metrics.compute()["loss"].item() == pytest.approx(expected, rel=2e-6)


def test_balanced_weights_make_all_classes_count_alike() -> None:
    data = SimpleNamespace(class_counts=(10, 30, 60))
    weights = weigh_classes({"weight": "balanced", "pos_weight": "balanced"}, data)
    assert torch.allclose(weights["weight"] * torch.tensor([10, 30, 60]), torch.full((3,), 100 / 3))
    assert torch.allclose(weights["pos_weight"], torch.tensor([9.0, 70 / 30, 40 / 60]))
    assert weigh_classes({"weight": None, "reduction": "mean"}, data) == {}
    for data.class_counts in ((), (3, 0)):
        with pytest.raises(ConfigError, match=r"loss\.weight=balanced: expected a training sample of each"):
            weigh_classes({"weight": "balanced"}, data)


class Own(nn.Module):
    """A function as a criterion that says what it takes, or does not."""

    def __init__(self, compute: Callable[[Tensor, Tensor], Tensor], takes: str | None = None) -> None:
        super().__init__()
        self.compute, self.takes = compute, takes

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return self.compute(input, target)


def compare(input: Tensor, target: Tensor) -> Tensor:
    return (input - target).abs().mean()


class Forgetful(nn.Module):
    def __init__(self) -> None:
        self.scale = 2.0


def fit(criterion: nn.Module, classes: int | None = 3) -> None:
    """Train for an epoch on classes, or on two values where there are none."""
    targets = torch.randn(30, 2) if classes is None else torch.arange(30) % classes
    data = tensors(torch.randn(30, 4), targets, "vw" if classes is None else map(str, range(classes)))
    trainer().fit(supervised(data, criterion=criterion, metrics={}), datamodule=data)


def test_a_criterion_of_ones_own_gets_logits_and_classes_or_values_and_values() -> None:
    own = Own(lambda input, target: -input.log_softmax(1).gather(1, target.unsqueeze(1)).mean())
    assert torch.allclose(loss_of(own, Classes("abcd"), LOGITS, CLASSES), F.cross_entropy(LOGITS, CLASSES))
    for task in (Values("ab"), Labels("ab")):
        assert loss_of(Own(compare), task, torch.ones(2, 2), torch.zeros(2, 2)) == 1
    found = loss_of(Own(compare, "values"), Classes("abcd"), LOGITS, CLASSES)
    assert torch.allclose(found, (P - ONE_HOT).abs().mean())


DOES_NOT_FIT = 'loss: expected a criterion that takes .*takes = "values"$'


@pytest.mark.parametrize(
    ("criterion", "classes", "line"),
    [
        *((Own(compare), classes, DOES_NOT_FIT) for classes in (2, 3, 10)),
        (nn.CrossEntropyLoss(), None, "loss: expected a loss on values .*not one on classes"),
        (Own(compare, "value"), 3, r"loss\.takes=value: expected one of .*; nearest: values"),
        (Own(lambda *_: torch.tensor(1.0)), 3, "loss: expected a loss that depends on the model's outputs"),
        (nn.CrossEntropyLoss(reduction="none"), 3, r"loss: expected one number per batch.*not \(4,\)"),
    ],
)
def test_a_loss_that_cannot_be_meant_is_one_line(criterion: Any, classes: int | None, line: str) -> None:
    with pytest.raises(ConfigError, match=f"^{line}"):
        fit(criterion, classes)


def test_a_bug_in_a_criterion_is_no_fault_of_the_config_and_a_forgotten_line_is_named(tmp_path: Path) -> None:
    with pytest.raises(NameError):
        fit(Own(lambda input, target: forgotten))  # type: ignore[name-defined]  # noqa: F821
    with pytest.raises(ConfigError, match=r"super\(\).__init__\(\) first; Forgetful's does not"):
        train_here(tmp_path / "run", "loss=mae", f"loss._target_={__name__}.Forgetful")


def test_trying_a_batch_draws_nothing_and_leaves_no_trace() -> None:
    noisy = Own(lambda input, target: F.cross_entropy(input + torch.randn_like(input), target))
    data = data_of(batch_size=142)  # of 1,437: an epoch ends with one sample more
    model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Dropout(0.5), nn.Linear(64, 10))
    module = supervised(data, model, noisy)
    before, state = torch.get_rng_state(), {k: v.clone() for k, v in model.state_dict().items()}
    try_out(module, *next(iter(data.train_dataloader())))
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert all(part.training for part in module.modules() if part is not module.scaling)
