"""The template against the tutorial: the same weights and figures, and the facts that it teaches."""

import csv
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
import hand_loop as tutorial
from conftest import Run
from lightning.pytorch import Trainer, seed_everything
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Sampler, TensorDataset

from descent.data.digits import digits
from descent.data.samples import FromSamples
from descent.losses import MeanAbsoluteError, adapt
from descent.metrics import Accuracy
from descent.models import MLP
from descent.module import Supervised

BATCH = 37  # leaves a smaller last batch in training and in validation
EPOCHS = 3
SIZES = {"batch_size": BATCH, "eval_batch_size": BATCH, "val_fraction": 0.1, "test_fraction": 0.1}


def mae_on_probabilities(outputs: Tensor, labels: Tensor) -> Tensor:
    return tutorial.Loss()(outputs.softmax(1), F.one_hot(labels, 10).float())


class EpochOrder(Sampler[int]):
    """The template's order of each epoch, in torch's own DataLoader."""

    def __init__(self, batches: Any) -> None:
        self.order, self.epoch = batches.order, 0

    def __len__(self) -> int:
        return len(self.order.rows)

    def __iter__(self) -> Iterator[int]:
        self.order.set_epoch(self.epoch)
        self.epoch += 1
        yield from self.order.draw().tolist()


@pytest.mark.parametrize(
    ("loss", "criterion", "name", "optimizer"),
    [
        ("mae", mae_on_probabilities, "sgd", partial(torch.optim.SGD, lr=0.01)),
        ("cross_entropy", nn.CrossEntropyLoss(), "adam", partial(torch.optim.Adam, lr=0.001, fused=True)),
        (
            "cross_entropy",
            nn.CrossEntropyLoss(),
            "adam optimizer.fused=null",
            partial(torch.optim.Adam, lr=0.001),
        ),
    ],
)
def test_a_run_gives_the_tutorials_weights_bit_for_bit_and_prints_its_figures(
    run: Run,
    loss: str,
    criterion: Callable[..., Tensor],
    name: str,
    optimizer: Callable[..., Any],
    capsys: Any,
) -> None:
    words = [f"data.batch_size={BATCH}", f"data.eval_batch_size={BATCH}", f"trainer.max_epochs={EPOCHS}"]
    finished = run(f"loss={loss}", *f"optimizer={name}".split(), "trainer.accelerator=cpu", *words)
    assert finished.code == 0, finished.err

    torch.set_num_threads(1)  # as the run chooses for data as small as this
    data = FromSamples(digits, **SIZES, seed=0, label_noise=0.0, fold=None, folds=5)  # type: ignore[arg-type]
    seed_everything(0, verbose=False)
    model = MLP(data.input_shape, data.outputs, hidden=[256], dropout=0.0)
    assert isinstance(data.inputs, Tensor)
    train_set, val_set = TensorDataset(data.inputs, data.targets), TensorDataset(*data.take("val"))
    figures = tutorial.train(
        model,
        DataLoader(train_set, BATCH, sampler=EpochOrder(data.train_dataloader())),
        DataLoader(val_set, BATCH),
        criterion,
        optimizer(model.parameters()),
        EPOCHS,
    )

    checkpoint = torch.load(finished.folder / "run/checkpoints/last.ckpt", weights_only=True)
    for parameter, weights in model.state_dict().items():
        assert torch.equal(checkpoint["state_dict"][f"model.{parameter}"], weights), parameter

    def printed(text: str) -> list[str]:
        return [line for line in text.splitlines() if line.startswith("Epoch") and "Val Acc" in line]

    lines, reference = printed(finished.out), printed(capsys.readouterr().out)
    assert [line.split(":")[0] for line in lines] == [line.split(":")[0] for line in reference]
    with (finished.folder / "run/metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    for line, row, expected in zip(lines, rows, figures, strict=True):
        names = ("train/loss", "train/acc", "val/loss", "val/acc")
        assert [float(row[n]) for n in names] == pytest.approx(expected, abs=1e-6)
        words = [part.split(": ")[1] for part in line.split(", ")[1:]]
        assert [float(word) for word in words] == pytest.approx(expected, abs=0.5e-4 + 1e-6)


def test_the_criterion_has_no_parameters() -> None:
    assert not list(MeanAbsoluteError().parameters())
    assert not list(adapt(MeanAbsoluteError(), "classification", 10).parameters())
    assert not list(nn.CrossEntropyLoss().parameters())


def test_backward_stores_gradients_on_the_models_parameters() -> None:
    model, criterion = nn.Linear(3, 2), MeanAbsoluteError()
    assert all(p.grad is None for p in model.parameters())
    before = dict(vars(criterion))
    criterion(model(torch.randn(4, 3)), torch.randn(4, 2)).backward()
    assert all(p.grad is not None and p.grad.shape == p.shape for p in model.parameters())
    assert vars(criterion) == before  # the criterion knows nothing of them


def test_gradients_accumulate_without_zero_grad() -> None:
    model, criterion = nn.Linear(3, 2), MeanAbsoluteError()
    inputs, targets = torch.randn(4, 3), torch.randn(4, 2)
    criterion(model(inputs), targets).backward()
    once = model.weight.grad.clone()  # type: ignore[union-attr]
    criterion(model(inputs), targets).backward()
    assert torch.equal(model.weight.grad, 2 * once)  # type: ignore[arg-type]
    torch.optim.SGD(model.parameters(), lr=0.1).zero_grad()
    assert model.weight.grad is None


def supervised(model: nn.Module) -> tuple[Supervised, Any]:
    data = FromSamples(digits, **SIZES, seed=0, label_noise=0.0, fold=None, folds=5)  # type: ignore[arg-type]
    optimizer = partial(torch.optim.SGD, lr=0.01)
    metrics = {"acc": Accuracy()}
    return Supervised(model, nn.CrossEntropyLoss(), optimizer, None, metrics, data.scaling), data


def test_the_optimizer_holds_the_very_tensors_of_model_parameters() -> None:
    model = MLP((1, 8, 8), 10, hidden=[16], dropout=0.0)
    module, _ = supervised(model)
    optimizer = module.configure_optimizers()
    assert isinstance(optimizer, torch.optim.SGD)
    held = [p for group in optimizer.param_groups for p in group["params"]]
    assert len(held) == 4
    assert all(a is b for a, b in zip(held, model.parameters(), strict=True))


def test_eval_and_no_grad_hold_in_validation() -> None:
    seen: dict[bool, set[tuple[bool, bool]]] = {True: set(), False: set()}

    class Witness(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            seen[trainer.validating or trainer.testing or trainer.sanity_checking or not module.training].add(
                (self.training, torch.is_grad_enabled())
            )
            return inputs

    module, data = supervised(nn.Sequential(Witness(), MLP((1, 8, 8), 10, hidden=[16], dropout=0.0)))
    trainer = Trainer(
        fast_dev_run=2, accelerator="cpu", enable_progress_bar=False, enable_model_summary=False, logger=False
    )
    trainer.fit(module, datamodule=data)
    assert seen == {False: {(True, True)}, True: {(False, False)}}
