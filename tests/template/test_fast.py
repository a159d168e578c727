"""trainer=fast against Lightning's own loop and torch's step: the same bits, hooks, state and counters."""

from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning_utilities.core.apply_func import apply_to_collection
from small import data_of, supervised, trainer
from torch.optim import SGD, Adam, AdamW, NAdam, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR

from descent.fast.loop import HOOKS, FastTrainer
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
]
UNUSUAL = [
    partial(Adam, lr=0.01),
    partial(Adam, lr=0.01, fused=True, amsgrad=True),
    partial(AdamW, lr=0.01, fused=True, maximize=True),
    lambda params: Adam(params, lr=torch.tensor(0.01), fused=True),
    partial(SGD, lr=0.01, momentum=0.9, nesterov=True),
    partial(SGD, lr=0.01, fused=True),
    partial(NAdam, lr=0.01),
    partial(Own, lr=0.01, fused=True),
    lambda params: Adam([{"params": [p]} for p in params], lr=0.01, fused=True),
]


@pytest.fixture
def own_steps(monkeypatch: pytest.MonkeyPatch) -> list[Optimizer]:
    """The optimizers whose own `step` was called."""
    called: list[Optimizer] = []
    steps = {kind: kind.step for kind in (Adam, AdamW, SGD, NAdam)}  # AdamW may have that of Adam
    for kind, theirs in steps.items():

        def step(self: Optimizer, closure: Any = None, own: Any = theirs) -> Any:
            called.append(self)
            return own(self, closure)

        step.hooked = True  # type: ignore[attr-defined]  # as torch marks what need not be wrapped again
        monkeypatch.setattr(kind, "step", step)
    return called


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
    """Logs steps; returns a dictionary, and nothing for a batch that is to be skipped."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)
        self.log("step_loss", loss)
        return None if batch_idx == 2 else {"loss": loss, "more": 2 * loss}


class Short(Supervised):
    """Has no use for the number of a batch."""

    def training_step(self, batch: Any) -> torch.Tensor:  # type: ignore[override]
        return super().training_step(batch, self.trainer.fit_loop.epoch_loop.batch_idx)


class OwnStep(Supervised):
    """Has an optimizer step of its own."""

    own = 0

    def optimizer_step(self, *arguments: Any) -> None:
        self.own += 1
        super().optimizer_step(*arguments)


def assert_alike(folder: Path, kind: type[Supervised] = Supervised, make: Any = ADAM, **settings: Any) -> Any:
    """Train 12 steps with each trainer; state, hooks and counters are the same. Return the fast one."""
    torch.set_num_threads(1)

    def fit(own: type[OwnTrainer]) -> tuple[Any, list[Any], Any]:
        torch.manual_seed(0)
        data, witness = data_of(batch_size=256), Witness()
        callbacks = [witness, *(callback() for callback in settings.get("callbacks", ()))]
        arguments = {"default_root_dir": folder / own.__name__, "max_epochs": 2, "enable_checkpointing": True}
        (folder / own.__name__).mkdir()
        fitted = trainer(own, **arguments, **{**settings, "callbacks": callbacks})
        model = MLP(**data.sizes, hidden=[32], dropout=0.5)
        schedule = Schedule(CosineAnnealingLR, "step", T_max=None)
        fitted.fit(supervised(data, model, optimizer=make, schedule=schedule, kind=kind), datamodule=data)
        saved = torch.load(next(folder.glob(f"{own.__name__}/**/*.ckpt")), weights_only=True)
        parts, to_list = ("state_dict", "optimizer_states", "loops", "lr_schedulers"), torch.Tensor.tolist
        values = apply_to_collection([saved[part] for part in parts], torch.Tensor, to_list)
        return fitted, witness.seen, values

    (ours, seen, saved), (theirs, expected, theirs_saved) = fit(FastTrainer), fit(OwnTrainer)
    assert saved == theirs_saved
    assert seen == expected
    assert ours.callback_metrics == theirs.callback_metrics
    return ours


@pytest.mark.filterwarnings("error:Detected call of .lr_scheduler.step")
@pytest.mark.parametrize("make", KERNELS + UNUSUAL)
def test_a_kernel_gives_the_bits_and_the_state_of_torchs_step_which_runs_where_anything_is_unusual(
    make: Any, tmp_path: Path, own_steps: list[Optimizer]
) -> None:
    (optimizer,) = assert_alike(tmp_path, make=make).optimizers
    made = not (type(optimizer) is SGD and optimizer.defaults["momentum"] == 0)  # by torch's step: the state
    assert own_steps.count(optimizer) == (12 if make in UNUSUAL else int(made))


class Changes(Callback):
    """Changes the optimizer between two steps, in each way that there is."""

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, *_: Any) -> None:
        step, (optimizer,) = trainer.global_step, trainer.optimizers
        next(pl_module.parameters()).requires_grad_(step != 2)
        if step == 3:
            self.state = deepcopy(optimizer.state_dict())
        elif step == 4:
            optimizer.param_groups[0].update(weight_decay=0.3, eps=1e-3, betas=(0.5, 0.6))
        elif step == 6:
            optimizer.load_state_dict(self.state)
        elif step == 8:
            self.handle = optimizer.register_step_post_hook(lambda *_: None)  # which torch's own step calls
        elif step == 10:
            self.handle.remove()
            optimizer.param_groups[0]["maximize"] = True


def test_what_changes_between_two_steps_counts_from_then_on(
    tmp_path: Path, own_steps: list[Optimizer]
) -> None:
    (optimizer,) = assert_alike(tmp_path, callbacks=[Changes]).optimizers
    assert own_steps.count(optimizer) == 1 + 2 + 2  # the first, with a hook, and with maximize


@pytest.mark.filterwarnings("ignore:.training_step. returned .None.")  # of Logged, on purpose
@pytest.mark.parametrize(
    ("kind", "arguments", "plain"),
    [
        (Logged, {}, True),
        (Supervised, {"gradient_clip_val": 0.1}, True),
        (Supervised, {"precision": "bf16-mixed", "max_steps": 7}, True),
        (Supervised, {"accumulate_grad_batches": 2}, False),
        (Short, {}, False),
        (OwnStep, {}, False),
    ],
)
def test_weights_hooks_and_counters_are_those_of_lightnings_own_loop(
    tmp_path: Path, kind: type[Supervised], arguments: dict[str, Any], plain: bool
) -> None:
    fitted = assert_alike(tmp_path, kind, partial(Adam, lr=0.01), **arguments)
    assert fitted.fit_loop.epoch_loop.plain == plain
    assert getattr(fitted.model, "own", fitted.global_step) == fitted.global_step


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
