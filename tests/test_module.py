"""The LightningModule on its own: raw inputs to units, criteria with weights, losses that need more."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Run
from lightning.pytorch import Trainer
from test_table import houses
from torch import Tensor, nn

from descent.data.diabetes import diabetes
from descent.data.digits import digits
from descent.data.named_path import NamedPath
from descent.data.samples import FromSamples
from descent.inference import load
from descent.losses import MeanAbsoluteError
from descent.metrics import Accuracy
from descent.models import MLP
from descent.module import Supervised
from descent.run.checkpoints import read

SIZES: dict[str, Any] = {
    "batch_size": 64,
    "eval_batch_size": 512,
    "val_fraction": 0.1,
    "test_fraction": 0.1,
    "seed": 0,
    "label_noise": 0.0,
    "fold": None,
    "folds": 5,
}


class Temperature(nn.Module):
    """Cross entropy of logits that a learned temperature divides (Guo et al., 2017)."""

    def __init__(self) -> None:
        super().__init__()
        self.log_temperature = nn.Parameter(torch.zeros(()))

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return nn.functional.cross_entropy(input / self.log_temperature.exp(), target)


def train(criterion: nn.Module, kind: type[Supervised] = Supervised) -> tuple[Supervised, FromSamples]:
    torch.manual_seed(0)
    data = FromSamples(digits, **SIZES)
    model = MLP(data.input_shape, data.outputs, hidden=[16], dropout=0.0)
    optimizer = partial(torch.optim.SGD, lr=0.1)
    module = kind(model, criterion, optimizer, None, {"acc": Accuracy()}, data.scaling)
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=3,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, datamodule=data)
    return module, data


def test_a_criterions_own_parameters_are_trained_along() -> None:
    criterion = Temperature()
    module, _ = train(criterion)
    assert criterion.log_temperature.item() != 0
    assert "criterion.log_temperature" in module.state_dict()


def test_a_loss_that_needs_the_inputs_overrides_one_method() -> None:
    seen: list[tuple[int, ...]] = []

    class Sees(Supervised):
        def compute_loss(self, inputs: Tensor, outputs: Tensor, targets: Tensor) -> Tensor:
            seen.append(tuple(inputs.shape))
            return super().compute_loss(inputs, outputs, targets)

    train(nn.CrossEntropyLoss(), Sees)
    assert (64, 1, 8, 8) in seen


def test_forward_takes_raw_inputs_and_gives_probabilities_or_values_in_their_units() -> None:
    module, _ = train(nn.CrossEntropyLoss())
    raw = digits().inputs
    assert isinstance(raw, Tensor)
    with torch.no_grad():
        chances = module.eval()(raw)
    assert chances.sum(1) == pytest.approx(torch.ones(len(raw)), abs=1e-5)
    assert (chances.argmax(1) == digits().targets).float().mean() > 0.7

    data = FromSamples(diabetes, **SIZES)
    model = nn.Linear(10, 1)
    values = Supervised(model, MeanAbsoluteError(), torch.optim.SGD, None, {}, data.scaling)
    inputs = diabetes().inputs
    assert isinstance(inputs, Tensor)
    scaled = (inputs - data.scaling.input_mean) / data.scaling.input_std
    expected = model(scaled) * data.scaling.target_std + data.scaling.target_mean
    assert torch.allclose(values(inputs), expected)


def test_a_saved_run_gives_for_a_table_what_its_module_gives(run: Run, tmp_path: Path) -> None:
    houses(tmp_path / "houses.csv")
    words = ("data.target=price", "data.exclude=[id]", "trainer.max_epochs=2")
    assert run("data=table", "data.path=houses.csv", *words).code == 0
    predictor = load(tmp_path / "run", "last")
    _, inputs = next(iter(predictor.reader.read(NamedPath("input", str(tmp_path / "houses.csv")))))
    state = read(tmp_path / "run/checkpoints/last.ckpt")["state_dict"]
    module = Supervised(predictor.model, MeanAbsoluteError(), torch.optim.SGD, None, {}, predictor.scaling)
    module.load_state_dict(state)
    with torch.no_grad():
        assert torch.equal(module.eval()(inputs), predictor(inputs))
