"""Torch's kernels, called directly, against torch's own optimizers: the same bits, the same state."""

from collections.abc import Iterator
from copy import deepcopy
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam, AdamW, NAdam, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR

from descent.kernels import Stepper

ADAM = partial(Adam, lr=0.01, fused=True)
KERNELS = [
    ADAM,
    partial(Adam, lr=0.01, fused=True, weight_decay=0.1, betas=(0.8, 0.9), eps=1e-6),
    partial(AdamW, lr=0.01, fused=True),
    partial(SGD, lr=0.01),
    partial(SGD, lr=0.01, foreach=True, weight_decay=0.1),
    partial(SGD, lr=0.01, momentum=0.9, dampening=0.5, weight_decay=0.1),
    partial(SGD, lr=0.01, fused=True),
    partial(SGD, lr=0.01, fused=True, momentum=0.9, dampening=0.5, weight_decay=0.1),
]
UNUSUAL = [
    partial(Adam, lr=0.01),
    partial(Adam, lr=0.01, fused=True, amsgrad=True),
    partial(AdamW, lr=0.01, fused=True, maximize=True),
    partial(Adam, lr=torch.tensor(0.01), fused=True),
    partial(SGD, lr=0.01, momentum=0.9, nesterov=True),
    partial(NAdam, lr=0.01),
    lambda params: Adam([{"params": [p]} for p in params], lr=0.01, fused=True),
]
STEPS = 7


def named(make: Any) -> str:
    if not isinstance(make, partial):
        return "several groups"
    return " ".join([make.func.__name__, *(f"{name}={value}" for name, value in make.keywords.items())])


class Twins:
    """Two networks of the same weights: one is stepped by a Stepper, one by torch's own optimizer."""

    def __init__(self, make: Any) -> None:
        torch.manual_seed(0)
        self.ours = nn.Sequential(nn.Linear(5, 70), nn.ReLU(), nn.Linear(70, 3))
        self.theirs = deepcopy(self.ours)
        self.optimizer, self.reference = make(self.ours.parameters()), make(self.theirs.parameters())
        self.stepper = Stepper(self.optimizer)

    def train(self, steps: int) -> None:
        """Take steps; in one of them, the first layer has no gradient."""
        for step in range(steps):
            inputs = torch.randn(16, 5)
            for network in (self.ours, self.theirs):
                network[0].requires_grad_(step != 2)  # type: ignore[operator]
                network(inputs).square().mean().backward()
            self.stepper.step()
            self.reference.step()
            self.compare()
            self.stepper.zero_grad()
            self.reference.zero_grad()
            assert all(p.grad is None for p in self.ours.parameters())

    def compare(self) -> None:
        for a, b in zip(self.ours.parameters(), self.theirs.parameters(), strict=True):
            assert torch.equal(a, b)
        ours, theirs = self.optimizer.state_dict(), self.reference.state_dict()
        assert str(ours["param_groups"]) == str(theirs["param_groups"])
        assert ours["state"].keys() == theirs["state"].keys()
        for index, state in theirs["state"].items():
            assert state.keys() == ours["state"][index].keys()
            for name, value in state.items():
                assert value is None or torch.equal(value, ours["state"][index][name]), name


@pytest.fixture
def own_steps(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Optimizer]]:
    """The optimizers whose own `step` was called."""
    called: list[Optimizer] = []
    for kind in (Adam, SGD, NAdam):  # AdamW has that of Adam
        own = kind.step

        def step(self: Optimizer, closure: Any = None, own: Any = own) -> Any:
            called.append(self)
            return own(self, closure)

        step.hooked = True  # type: ignore[attr-defined]  # as torch marks what need not be wrapped again
        monkeypatch.setattr(kind, "step", step)
    yield called


@pytest.mark.parametrize("make", KERNELS, ids=named)
def test_a_kernel_called_directly_gives_the_bits_and_the_state_of_torchs_step(
    make: Any, own_steps: list[Optimizer]
) -> None:
    twins = Twins(make)
    twins.train(STEPS)
    first = 0 if "SGD" in named(make) and "momentum" not in named(make) else 1  # it makes the state
    assert own_steps.count(twins.optimizer) == first
    assert own_steps.count(twins.reference) == STEPS


@pytest.mark.parametrize("make", UNUSUAL, ids=named)
def test_torchs_own_step_runs_where_anything_is_unusual(make: Any, own_steps: list[Optimizer]) -> None:
    twins = Twins(make)
    twins.train(STEPS)
    assert own_steps.count(twins.optimizer) == STEPS


def test_a_setting_that_changes_between_two_steps_counts_from_then_on(own_steps: list[Optimizer]) -> None:
    twins = Twins(ADAM)
    twins.train(2)
    for optimizer in (twins.optimizer, twins.reference):
        optimizer.param_groups[0] |= {"lr": 0.5, "weight_decay": 0.3, "eps": 1e-3, "betas": (0.5, 0.6)}
    twins.train(2)
    assert own_steps.count(twins.optimizer) == 1
    for optimizer in (twins.optimizer, twins.reference):
        optimizer.param_groups[0]["maximize"] = True
    twins.train(2)
    assert own_steps.count(twins.optimizer) == 3


def test_a_state_that_is_loaded_counts_from_then_on(own_steps: list[Optimizer]) -> None:
    twins, others = Twins(ADAM), Twins(ADAM)
    others.train(3)
    twins.train(1)
    for optimizer in (twins.optimizer, twins.reference):
        optimizer.load_state_dict(deepcopy(others.reference.state_dict()))
    twins.train(3)
    assert own_steps.count(twins.optimizer) == 1


def test_a_scheduler_sees_that_the_optimizer_has_stepped(recwarn: pytest.WarningsRecorder) -> None:
    twins = Twins(partial(SGD, lr=0.1))
    pair = (twins.optimizer, twins.reference)
    schedulers = [CosineAnnealingLR(optimizer, T_max=STEPS) for optimizer in pair]
    twins.stepper = Stepper(twins.optimizer)  # as the loop makes it, when the scheduler is there
    for _ in range(3):
        twins.train(1)
        for scheduler in schedulers:
            scheduler.step()
    assert twins.optimizer.param_groups[0]["lr"] < 0.1
    assert not [w for w in recwarn if "lr_scheduler.step()" in str(w.message)]


def test_hooks_of_an_optimizer_are_called() -> None:
    twins, called = Twins(ADAM), []
    twins.train(2)
    handle = twins.optimizer.register_step_post_hook(lambda *_: called.append(1))
    twins.train(2)
    handle.remove()
    twins.train(2)
    assert called == [1, 1]


def test_an_optimizer_with_a_step_of_its_own_keeps_it() -> None:
    called = []

    class Own(Adam):
        def step(self, closure: Any = None) -> Any:
            called.append(1)
            return super().step(closure)

    Twins(partial(Own, lr=0.01, fused=True)).train(2)
    assert len(called) == 4
