"""The template against the tutorial: the same weights and figures, and the facts that it teaches."""

import csv
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import hand_loop as tutorial
import pytest
import torch
from lightning.pytorch import seed_everything
from lightning.pytorch.loops.optimization.automatic import _AutomaticOptimization
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop
from small import data_of, last_weights, supervised, take, train_here, trainer
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from descent.data.batches import Order
from descent.losses import MeanAbsoluteError
from descent.models import MLP
from descent.trainer import Trainer

BATCH = 37  # leaves a smaller last batch in training and in validation
EPOCHS = 3


def mae_on_probabilities(outputs: Tensor, labels: Tensor) -> Tensor:
    return tutorial.Loss()(outputs.softmax(1), F.one_hot(labels, 10).float())


class EpochOrder:
    """The template's order of each epoch, in torch's own DataLoader."""

    def __init__(self, order: Order) -> None:
        self.order, self.epoch = order, 0

    def __iter__(self) -> Iterator[int]:
        self.order.set_epoch(self.epoch)
        self.epoch += 1
        yield from self.order.draw().tolist()


ADAM = partial(torch.optim.Adam, lr=0.001)


@pytest.mark.parametrize(
    ("words", "criterion", "optimizer"),
    [
        ("loss=mae optimizer=sgd", mae_on_probabilities, partial(torch.optim.SGD, lr=0.01)),
        ("optimizer=adam", nn.CrossEntropyLoss(), partial(ADAM, fused=True)),
        ("optimizer=adam optimizer.fused=null", nn.CrossEntropyLoss(), ADAM),
        ("optimizer=adam trainer=fast", nn.CrossEntropyLoss(), partial(ADAM, fused=True)),
    ],
)
def test_a_run_gives_the_tutorials_weights_bit_for_bit_and_prints_its_figures(
    tmp_path: Path, words: str, criterion: Callable[..., Tensor], optimizer: Callable[..., Any], capsys: Any
) -> None:
    if "trainer=fast" in words:
        pytest.importorskip("descent.fast", reason="a room that may be taken out")

    def printed() -> list[str]:
        lines = capsys.readouterr().out.splitlines()
        return [line for line in lines if line.startswith("Epoch") and "Val Acc" in line]

    sizes = f"data.batch_size={BATCH} data.eval_batch_size={BATCH} trainer.max_epochs={EPOCHS}"
    train_here(tmp_path / "run", *words.split(), "trainer.accelerator=cpu", *sizes.split())
    lines = printed()

    torch.set_num_threads(1)  # as the run chooses for data as small as this
    data: Any = data_of(batch_size=BATCH, eval_batch_size=BATCH)
    seed_everything(0, verbose=False)
    model = MLP(**data.sizes, hidden=[256], dropout=0.0)
    order = EpochOrder(data.train_dataloader().order)
    train_loader = DataLoader(TensorDataset(data.inputs, data.targets), BATCH, sampler=order)
    val_loader = DataLoader(TensorDataset(*take(data, "val")), BATCH)
    figures = tutorial.train(
        model, train_loader, val_loader, criterion, optimizer(model.parameters()), EPOCHS
    )
    saved = last_weights(tmp_path / "run")
    for parameter, weights in model.state_dict().items():
        assert torch.equal(saved[f"model.{parameter}"], weights), parameter
    assert [line.split(":")[0] for line in lines] == [line.split(":")[0] for line in printed()]
    with (tmp_path / "run/metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    for line, row, expected in zip(lines, rows, figures, strict=True):
        names = ("train/loss", "train/acc", "val/loss", "val/acc")
        assert [float(row[n]) for n in names] == pytest.approx(expected, abs=1e-6)
        shown = [part.split(": ")[1] for part in line.split(", ")[1:]]
        assert [float(word) for word in shown] == pytest.approx(expected, abs=0.5e-4 + 1e-6)


def test_lightning_calls_torchs_own_step_on_the_models_tensors_and_validates_in_eval_without_gradients(
    monkeypatch: Any,
) -> None:
    own, steps = torch.optim.SGD.step, []
    modes: dict[bool, set[tuple[bool, bool]]] = {True: set(), False: set()}

    def step(self: torch.optim.SGD, closure: Any = None) -> Any:
        frame, around = sys._getframe(), []
        while frame := frame.f_back:  # type: ignore[assignment]
            around.append(type(frame.f_locals.get("self")))
        steps.append(around)
        held = [p for group in self.param_groups for p in group["params"]]
        assert [*map(id, held)] == [*map(id, module.model.parameters())]
        return own(self, closure)

    class Witness(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            validates = fitted.sanity_checking or not module.training
            modes[validates].add((self.training, torch.is_grad_enabled()))
            return inputs

    monkeypatch.setattr(torch.optim.SGD, "step", step)
    assert not list(MeanAbsoluteError().parameters())
    data = data_of()
    module = supervised(data, nn.Sequential(Witness(), MLP(**data.sizes, hidden=[16], dropout=0.0)))
    module.tried = True  # else one batch is first sent through everything, with gradients
    fitted = trainer(Trainer, default_root_dir="unused", max_epochs=2)
    fitted.fit(module, datamodule=data)
    assert len(steps) == 2 * len(data.train_dataloader())
    assert all({_AutomaticOptimization, _TrainingEpochLoop} <= set(around) for around in steps)
    assert modes == {False: {(True, True)}, True: {(False, False)}}
