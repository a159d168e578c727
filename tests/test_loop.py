"""The training loop against Lightning's own: the same bits, the same hooks in the same order."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR

from descent.data.digits import digits
from descent.data.samples import FromSamples
from descent.loop import HOOKS, LeanLoop
from descent.metrics import Accuracy
from descent.models import MLP
from descent.module import Supervised
from descent.schedulers import Schedule


class Witness(Callback):
    """Notes each hook of a step, what it is given, and what `self.log` made of the step."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, Any]] = []
        for name in HOOKS:
            setattr(self, name, partial(self.note, name))

    def note(self, name: str, trainer: Trainer, pl_module: LightningModule, *arguments: Any) -> None:
        logged = {k: float(v) for k, v in trainer.callback_metrics.items()}
        told = [sorted(a) for a in arguments if isinstance(a, dict)]
        self.seen.append((name, (trainer.global_step, told, pl_module._current_fx_name, logged)))


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


class Silent(torch.optim.SGD):
    """An optimizer of one's own: without gradients around the closure, and with nothing to return."""

    @torch.no_grad()
    def step(self, closure: Any) -> None:  # type: ignore[override]
        closure()
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    p.sub_(group["lr"] * p.grad.sign())


class WithSilent(Supervised):
    def configure_optimizers(self) -> Any:
        return Silent(self.model.parameters(), lr=1e-3)


def fit(own: bool, kind: type[Supervised], folder: Path, **arguments: Any) -> tuple[Trainer, Witness]:
    """Two epochs; `own` with the project's loop, else with Lightning's."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    sizes = {"batch_size": 256, "eval_batch_size": 512, "val_fraction": 0.1, "test_fraction": 0.1}
    data = FromSamples(digits, **sizes, seed=0, label_noise=0.0, fold=None, folds=5)  # type: ignore[arg-type]
    witness = Witness()
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=2,
        callbacks=[witness],
        logger=False,
        default_root_dir=folder,
        enable_progress_bar=False,
        enable_model_summary=False,
        **arguments,
    )
    if own:
        trainer.fit_loop.epoch_loop = LeanLoop(trainer, trainer.min_steps, trainer.max_steps)
    schedule = Schedule(CosineAnnealingLR, "step", T_max=None)
    model = MLP(data.input_shape, data.outputs, hidden=[32], dropout=0.5)
    optimizer = partial(torch.optim.Adam, lr=0.01)
    module = kind(model, nn.CrossEntropyLoss(), optimizer, schedule, {"acc": Accuracy()}, data.scaling)
    trainer.fit(module, data)
    return trainer, witness


@pytest.mark.filterwarnings("ignore:.training_step. returned .None.")  # of Spoken, on purpose
@pytest.mark.parametrize(
    ("kind", "arguments", "plain"),
    [
        (Supervised, {}, True),
        (Logged, {}, True),
        (Heard, {}, True),
        (Supervised, {"gradient_clip_val": 0.1}, True),
        (Supervised, {"precision": "bf16-mixed", "max_steps": 7}, True),
        (Supervised, {"accumulate_grad_batches": 2}, False),
        (Spoken, {}, True),
        (Short, {}, False),
        (WithSilent, {}, True),
    ],
)
def test_weights_hooks_and_counters_are_those_of_lightnings_own_loop(
    tmp_path: Path, kind: type[Supervised], arguments: dict[str, Any], plain: bool
) -> None:
    ours, seen = fit(True, kind, tmp_path / "ours", **arguments)
    theirs, expected = fit(False, kind, tmp_path / "theirs", **arguments)
    assert ours.fit_loop.epoch_loop.plain == plain  # type: ignore[attr-defined]
    for a, b in zip(ours.model.parameters(), theirs.model.parameters(), strict=True):  # type: ignore[union-attr]
        assert torch.equal(a, b)
    assert seen.seen == expected.seen
    assert ours.callback_metrics == theirs.callback_metrics
    assert ours.fit_loop.epoch_loop.val_loop.plain == (kind is not Heard)  # type: ignore[attr-defined]
    saved = [
        torch.load(next((tmp_path / name).rglob("*.ckpt")), weights_only=True) for name in ("ours", "theirs")
    ]
    assert saved[0]["loops"] == saved[1]["loops"]
    assert saved[0]["lr_schedulers"] == saved[1]["lr_schedulers"]


def test_a_module_with_a_step_of_its_own_keeps_it(tmp_path: Path) -> None:
    called = []

    class Own(Supervised):
        def optimizer_step(self, *arguments: Any) -> None:
            called.append(1)
            super().optimizer_step(*arguments)

    trainer, _ = fit(True, Own, tmp_path)
    assert len(called) == trainer.global_step == 12
