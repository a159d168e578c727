"""trainer=fast against Lightning's own loop and torch's step: the same bits, hooks, state and counters."""

from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from small import data_of, supervised, trainer
from torch import nn
from torch.optim import SGD, Adam, AdamW, NAdam, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR

from descent.fast.kernels import Stepper
from descent.fast.loop import HOOKS
from descent.fast.trainer import FastTrainer
from descent.models import CNN, MLP
from descent.module import Supervised
from descent.schedulers import Schedule
from descent.trainer import Trainer as OwnTrainer


class Own(Adam):
    """Has a step of its own."""

    def step(self, closure: Any = None) -> Any:
        return super().step(closure)


ADAM = partial(Adam, lr=0.01, fused=True)
KERNELS = [
    ADAM,
    partial(Adam, lr=0.01, fused=True, weight_decay=0.1, betas=(0.8, 0.9), eps=1e-6),
    partial(AdamW, lr=0.01, fused=True),
    partial(SGD, lr=0.01),
    partial(SGD, lr=0.01, foreach=True, weight_decay=0.1),
    partial(SGD, lr=0.01, momentum=0.9, dampening=0.5, weight_decay=0.1),
    partial(SGD, lr=0.01, fused=True, momentum=0.9, dampening=0.5, weight_decay=0.1),
]
UNUSUAL = [
    partial(Adam, lr=0.01),
    partial(Adam, lr=0.01, fused=True, amsgrad=True),
    partial(AdamW, lr=0.01, fused=True, maximize=True),
    partial(Adam, lr=torch.tensor(0.01), fused=True),
    partial(SGD, lr=0.01, momentum=0.9, nesterov=True),
    partial(NAdam, lr=0.01),
    partial(Own, lr=0.01, fused=True),
    lambda params: Adam([{"params": [p]} for p in params], lr=0.01, fused=True),
]
STEPS = 7


class Twins:
    """Two networks of the same weights: one is stepped by a Stepper, one by torch's own optimizer."""

    def __init__(self, make: Any) -> None:
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(5, 70), nn.ReLU(), nn.Linear(70, 3))
        self.networks: Any = network, deepcopy(network)
        self.pair = [make(network.parameters()) for network in self.networks]
        self.stepper = Stepper(self.pair[0])

    def train(self, steps: int) -> None:
        """Take steps, in one of which the first layer has no gradient; weights and state stay the same."""
        for step in range(steps):
            inputs = torch.randn(16, 5)
            for network in self.networks:
                network[0].requires_grad_(step != 2)
                network(inputs).square().mean().backward()
            self.stepper.step()
            self.pair[1].step()
            pairs = zip(*(network.parameters() for network in self.networks), strict=True)
            assert all(torch.equal(*pair) for pair in pairs)
            self.stepper.zero_grad()
            self.pair[1].zero_grad()
            assert all(p.grad is None for p in self.networks[0].parameters())
        ours, theirs = (optimizer.state_dict() for optimizer in self.pair)
        assert str(ours["param_groups"]) == str(theirs["param_groups"])
        assert ours["state"].keys() == theirs["state"].keys()
        for index, state in theirs["state"].items():
            assert state.keys() == ours["state"][index].keys()
            for name, value in state.items():
                assert value is None or torch.equal(value, ours["state"][index][name]), name

    def change(self, **settings: Any) -> None:
        for optimizer in self.pair:
            optimizer.param_groups[0].update(settings)


@pytest.fixture
def own_steps(monkeypatch: pytest.MonkeyPatch) -> list[Optimizer]:
    """The optimizers whose own `step` was called."""
    called: list[Optimizer] = []
    for kind in (Adam, SGD, NAdam):  # AdamW has that of Adam

        def step(self: Optimizer, closure: Any = None, own: Any = kind.step) -> Any:
            called.append(self)
            return own(self, closure)

        step.hooked = True  # type: ignore[attr-defined]  # as torch marks what need not be wrapped again
        monkeypatch.setattr(kind, "step", step)
    return called


@pytest.mark.parametrize("make", KERNELS + UNUSUAL)
def test_a_kernel_gives_the_bits_and_the_state_of_torchs_step_which_runs_where_anything_is_unusual(
    make: Any, own_steps: list[Optimizer]
) -> None:
    twins = Twins(make)
    twins.train(STEPS)
    ours, theirs = twins.pair
    stateless = type(ours) is SGD and not ours.defaults["momentum"]  # else torch's step makes the state
    assert own_steps.count(ours) == (STEPS if make in UNUSUAL else 0 if stateless else 1)
    assert own_steps.count(theirs) == STEPS


def test_what_changes_between_two_steps_counts_from_then_on(own_steps: list[Optimizer]) -> None:
    twins, others = Twins(ADAM), Twins(ADAM)
    others.train(3)
    twins.train(2)
    twins.change(lr=0.5, weight_decay=0.3, eps=1e-3, betas=(0.5, 0.6))
    twins.train(2)
    for optimizer in twins.pair:
        optimizer.load_state_dict(deepcopy(others.pair[1].state_dict()))
    twins.train(2)
    assert own_steps.count(twins.pair[0]) == 1
    handle = twins.pair[0].register_step_post_hook(lambda *_: None)  # which torch's own step calls
    twins.train(2)
    handle.remove()
    assert own_steps.count(twins.pair[0]) == 3
    twins.change(maximize=True)
    twins.train(2)
    assert own_steps.count(twins.pair[0]) == 5


def test_a_scheduler_sees_that_the_optimizer_has_stepped(recwarn: pytest.WarningsRecorder) -> None:
    twins = Twins(partial(SGD, lr=0.1))
    schedulers = [CosineAnnealingLR(optimizer, T_max=STEPS) for optimizer in twins.pair]
    twins.stepper = Stepper(twins.pair[0])  # as the loop makes it, when the scheduler is there
    for _ in range(3):
        twins.train(1)
        for scheduler in schedulers:
            scheduler.step()
    assert twins.pair[0].param_groups[0]["lr"] < 0.1
    assert not [w for w in recwarn if "lr_scheduler.step()" in str(w.message)]


class Witness(Callback):
    """Notes each hook of a step, what it is given, and what `self.log` made of the step."""

    def __init__(self) -> None:
        self.seen: list[Any] = []
        for name in HOOKS:
            setattr(self, name, partial(self.note, name))

    def note(self, name: str, trainer: Trainer, pl_module: LightningModule, *arguments: Any) -> None:
        logged = {k: float(v) for k, v in trainer.callback_metrics.items()}
        told = [sorted(a) for a in arguments if isinstance(a, dict)]
        self.seen.append((name, trainer.global_step, told, pl_module._current_fx_name, logged))


class Logged(Supervised):
    """Uses self.log in a step, as a reader may."""

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        loss = super().training_step(batch, batch_idx)
        self.log("step_loss", loss)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        super().validation_step(batch, batch_idx)
        self.log("val_size", float(len(batch[1])), on_step=True, on_epoch=True)


class Heard(Supervised):
    """Has a hook of its own around each validation batch."""

    def on_validation_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:  # type: ignore[override]
        self.log("heard", float(batch_idx))


class Spoken(Supervised):
    """Returns a dictionary, and nothing for a batch that is to be skipped, as Lightning allows."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)
        return None if batch_idx == 2 else {"loss": loss, "more": 2 * loss}


class Short(Supervised):
    """Has no use for the number of a batch."""

    def training_step(self, batch: Any) -> torch.Tensor:  # type: ignore[override]
        return super().training_step(batch, self.trainer.fit_loop.epoch_loop.batch_idx)


class Silent(SGD):
    """An optimizer of one's own: without gradients around the closure, and with nothing to return."""

    @torch.no_grad()
    def step(self, closure: Any) -> None:  # type: ignore[override]
        closure()
        for p in self.param_groups[0]["params"]:
            if p.grad is not None:
                p.sub_(self.param_groups[0]["lr"] * p.grad.sign())


class WithSilent(Supervised):
    def configure_optimizers(self) -> Any:
        return Silent(self.model.parameters(), lr=1e-3)


class OwnStep(Supervised):
    """Has an optimizer step of its own."""

    own = 0

    def optimizer_step(self, *arguments: Any) -> None:
        self.own += 1
        super().optimizer_step(*arguments)


@pytest.mark.filterwarnings("ignore:.training_step. returned .None.")  # of Spoken, on purpose
@pytest.mark.parametrize(
    ("kind", "arguments", "plain"),
    [
        (Logged, {}, True),
        (Heard, {}, True),
        (Supervised, {"gradient_clip_val": 0.1}, True),
        (Supervised, {"precision": "bf16-mixed", "max_steps": 7}, True),
        (Supervised, {"accumulate_grad_batches": 2}, False),
        (Spoken, {}, True),
        (Short, {}, False),
        (WithSilent, {}, True),
        (OwnStep, {}, False),
    ],
)
def test_weights_hooks_and_counters_are_those_of_lightnings_own_loop(
    tmp_path: Path, kind: type[Supervised], arguments: dict[str, Any], plain: bool
) -> None:
    torch.set_num_threads(1)

    def fit(own: type[OwnTrainer]) -> tuple[Any, list[Any], dict[str, Any]]:
        torch.manual_seed(0)
        data, witness, folder = data_of(batch_size=256), Witness(), tmp_path / own.__name__
        folder.mkdir()
        settings = {"callbacks": [witness], "default_root_dir": folder, "max_epochs": 2, **arguments}
        fitted = trainer(own, **settings, enable_checkpointing=True)
        model, adam = MLP(**data.sizes, hidden=[32], dropout=0.5), partial(Adam, lr=0.01)
        schedule = Schedule(CosineAnnealingLR, "step", T_max=None)
        fitted.fit(supervised(data, model, optimizer=adam, schedule=schedule, kind=kind), datamodule=data)
        return fitted, witness.seen, torch.load(next(folder.rglob("*.ckpt")), weights_only=True)

    (ours, seen, saved), (theirs, expected, theirs_saved) = fit(FastTrainer), fit(OwnTrainer)
    assert ours.fit_loop.epoch_loop.plain == plain
    for a, b in zip(ours.model.parameters(), theirs.model.parameters(), strict=True):
        assert torch.equal(a, b)
    assert seen == expected
    assert ours.callback_metrics == theirs.callback_metrics
    assert ours.fit_loop.epoch_loop.val_loop.plain == (kind is not Heard)
    assert (saved["loops"], saved["lr_schedulers"]) == (theirs_saved["loops"], theirs_saved["lr_schedulers"])
    assert getattr(ours.model, "own", ours.global_step) == ours.global_step


class NoWaiting(Callback):
    """Makes torch raise where a training step waits for the device, from the second step of an epoch on."""

    def on_train_batch_start(self, *arguments: Any) -> None:
        torch.cuda.set_sync_debug_mode("error" if arguments[-1] > 0 else "default")

    def on_train_batch_end(self, *arguments: Any) -> None:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_no_step_waits_for_the_gpu(tmp_path: Path, precision: str) -> None:
    data = data_of()
    model = CNN(**data.sizes, channels=[8, 16], dropout=0.1)
    module = supervised(data, model, optimizer=partial(Adam, fused=True))
    settings = {"accelerator": "gpu", "devices": 1, "precision": precision, "max_epochs": 3}
    fitted = trainer(FastTrainer, default_root_dir=tmp_path, callbacks=[NoWaiting()], **settings)
    fitted.fit(module, datamodule=data)
    assert fitted.global_step == 3 * 23
