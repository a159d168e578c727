"""The module and its trainer: raw inputs to units, groups of parameters, schedules, averages, epochs."""

import csv
import json
import shutil
from functools import partial
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
import torch
from conftest import Run
from lightning.pytorch import LightningDataModule
from small import data_of, supervised, tensors, trainer
from torch import Tensor, nn
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torch.utils.data import DataLoader, TensorDataset

from descent.data.diabetes import diabetes
from descent.data.digits import digits
from descent.errors import ConfigError
from descent.losses import MeanAbsoluteError
from descent.models import MLP
from descent.module import Supervised
from descent.optimizers import group_parameters
from descent.schedulers import Schedule
from descent.trainer import Trainer

compiles = pytest.mark.skipif(shutil.which("c++") is None, reason="torch's CPU back end needs a C++ compiler")


def weights(path: Path) -> dict[str, Tensor]:
    return torch.load(path, weights_only=True)["state_dict"]


def write_word(folder: Path, word: str, text: str) -> None:
    """Write a file of a config folder of one's own."""
    path = folder / f"conf/{word}.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(f"# {word}\n{dedent(text)}\n")


# ---- the module --------------------------------------------------------------------------------------------


class Temperature(nn.Module):
    """Cross entropy of logits that a learned temperature divides (Guo et al., 2017)."""

    def __init__(self) -> None:
        super().__init__()
        self.log_temperature = nn.Parameter(torch.zeros(()))

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return nn.functional.cross_entropy(input / self.log_temperature.exp(), target)


def test_a_criterions_own_parameters_are_trained_along() -> None:
    data, criterion = data_of(), Temperature()
    module = supervised(data, criterion=criterion)
    trainer().fit(module, datamodule=data)
    assert criterion.log_temperature.item() != 0
    assert "criterion.log_temperature" in module.state_dict()


def test_a_loss_that_needs_the_inputs_overrides_one_method() -> None:
    seen: list[tuple[int, ...]] = []

    class Sees(Supervised):
        def compute_loss(self, inputs: Tensor, outputs: Tensor, targets: Tensor) -> Tensor:
            seen.append(tuple(inputs.shape))
            return super().compute_loss(inputs, outputs, targets)

    data = data_of()
    trainer().fit(supervised(data, kind=Sees), datamodule=data)
    assert (64, 1, 8, 8) in seen


def test_forward_takes_raw_inputs_and_gives_probabilities_or_values_in_their_units() -> None:
    torch.manual_seed(0)
    data, raw = data_of(), digits()
    module = supervised(data)
    trainer(max_epochs=3).fit(module, datamodule=data)
    with torch.no_grad():
        chances = module.eval()(raw.inputs)
    assert chances.sum(1) == pytest.approx(torch.ones(len(raw.targets)), abs=1e-5)
    assert (chances.argmax(1) == raw.targets).float().mean() > 0.7

    patients, model = data_of(diabetes), nn.Linear(10, 1)
    inputs: Any = diabetes().inputs
    scaled = ((inputs.double() - patients.scaling.mean) / patients.scaling.std).float()
    expected = model(scaled) * patients.task.std + patients.task.mean  # type: ignore[operator]
    module = supervised(patients, model, MeanAbsoluteError(), metrics={})
    assert torch.allclose(module(inputs), expected)


def test_plain_lightning_saves_loads_validates_and_tests_it() -> None:
    data = data_of()
    module = supervised(data)
    plain = trainer()
    (before,) = plain.validate(module, data.val_dataloader(), verbose=False)
    assert before.keys() == {"val/loss", "val/acc"}
    plain.fit(module, data.train_dataloader(), data.val_dataloader())
    (after,) = plain.test(module, data.val_dataloader(), verbose=False)
    assert after["test/loss"] < before["val/loss"]


# ---- groups of parameters ----------------------------------------------------------------------------------


def test_groups_are_told_by_patterns_and_the_rate_falls_from_layer_to_layer() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 4), nn.Linear(4, 2))
    groups = {"vectors": {"weight_decay": 0.0}, "3.*": {"lr": 1.0}, "0.* 1.* 2.*": {"lr_decay": 0.5}}
    found = group_parameters(model, Temperature(), groups, lr=0.1)
    named = {id(p): n for n, p in model.named_parameters()}
    shown = {named.get(id(p), "criterion"): {k: v for k, v in group.items() if k != "params"}
             for group in found for p in group["params"]}  # fmt: skip
    assert shown == {  # layers 0 to 3 and the criterion
        "0.weight": {"lr": 0.1 * 0.5**4},
        "0.bias": {"lr": 0.1 * 0.5**4, "weight_decay": 0.0},
        "1.weight": {"lr": 0.1 * 0.5**3, "weight_decay": 0.0},
        "1.bias": {"lr": 0.1 * 0.5**3, "weight_decay": 0.0},
        "2.weight": {"lr": 0.1 * 0.5**2},
        "2.bias": {"lr": 0.1 * 0.5**2, "weight_decay": 0.0},
        "3.weight": {"lr": 1.0},
        "3.bias": {"lr": 1.0, "weight_decay": 0.0},
        "criterion": {"weight_decay": 0.0},
    }
    with pytest.raises(ConfigError, match=r"^groups=3\.wieght: expected a pattern.*; nearest: 3\.weight$"):
        group_parameters(model, nn.ReLU(), {"3.wieght": {}})


def test_a_run_trains_its_groups_at_their_own_rates(run: Run, tmp_path: Path) -> None:
    write_word(tmp_path, "module/rates", """
        defaults: [supervised]
        groups:
          vectors: {weight_decay: 0.0}
          1.*: {lr: 0.0}
    """)  # fmt: skip
    words = ("optimizer=sgd", "optimizer.weight_decay=0.1", "scheduler=linear", "trainer.max_epochs=2")
    finished = run("--config-dir=conf", "module=rates", *words, f"folder={tmp_path}/run")
    assert finished.code == 0, finished.err
    saved = torch.load(tmp_path / "run/checkpoints/last.ckpt", weights_only=True)
    found = [
        (g["lr"], g["initial_lr"], g["weight_decay"]) for g in saved["optimizer_states"][0]["param_groups"]
    ]
    assert found == [(0.0, 0.01, 0.1), (0.0, 0.0, 0.1), (0.0, 0.0, 0.0), (0.0, 0.01, 0.0)]
    torch.manual_seed(0)
    start = MLP((1, 8, 8), 10, hidden=[256], dropout=0.0).state_dict()
    assert torch.equal(saved["state_dict"]["model.1.weight"], start["1.weight"])  # at a rate of 0
    assert not torch.equal(saved["state_dict"]["model.3.weight"], start["3.weight"])


# ---- schedules ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "steps"),
    [
        ({"max_epochs": 6}, 6),
        ({"max_epochs": 6, "check_val_every_n_epoch": 2}, 3),
        ({"max_epochs": 7, "check_val_every_n_epoch": 3}, 2),
    ],
)
def test_a_plateau_is_looked_for_when_validation_has_run(monkeypatch: Any, settings: Any, steps: int) -> None:
    own, found = ReduceLROnPlateau.step, []

    def step(self: ReduceLROnPlateau, metrics: Any, epoch: Any = None) -> None:
        found.append(float(metrics))
        own(self, metrics, epoch)

    monkeypatch.setattr(ReduceLROnPlateau, "step", step)
    data = data_of(batch_size=256)
    schedule = Schedule(ReduceLROnPlateau, "epoch", monitor="val/loss")
    trainer(**settings).fit(supervised(data, schedule=schedule), datamodule=data)
    assert len(found) == len(set(found)) == steps


# ---- the trainer -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("epochs", "batches", "expected"),
    [("auto", 90, 40), ("auto", 19, 43), ("auto", 2, 400), ("auto", None, 40), (7, 2, 7), (-1, 2, -1)],
)
def test_auto_is_40_epochs_and_more_where_those_have_few_batches(
    tmp_path: Path, epochs: Any, batches: int | None, expected: int
) -> None:
    quiet = trainer(Trainer, default_root_dir=tmp_path, max_epochs=epochs, batches=batches)
    assert quiet.max_epochs == expected


@pytest.mark.parametrize(
    ("field", "value"),
    [("accumulate_grad_batches", 0), ("max_epochs", -2), ("gradient_clip_val", -1.0), ("accelerator", "gqu")],
)
def test_what_lightning_does_not_look_at_is_one_line(tmp_path: Path, field: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"^{field}={value}: expected "):
        trainer(Trainer, default_root_dir=tmp_path, **{field: value})


def test_a_last_batch_of_one_with_batch_normalisation_is_one_line_before_training(run: Run) -> None:
    words = ("model=cnn", "model.channels=[8,8,8,8]", "data.batch_size=4", "trainer.max_epochs=1")
    finished = run(*words)
    assert (finished.code, finished.err.count("\n")) == (2, 1)
    assert finished.err.startswith(
        "data.batch_size=4: expected another size, or data.drop_last=true: an epoch"
    )
    assert "Epoch" not in finished.out
    assert run(*words, "data.drop_last=true", "trainer.limit_train_batches=3").code == 0
    assert run(*words[:1], "data.batch_size=4", "trainer.limit_train_batches=3", "folder=b").code == 0


def test_a_run_without_validation_keeps_the_best_by_its_training_loss(run: Run, tmp_path: Path) -> None:
    finished = run("trainer.limit_val_batches=0", "trainer.max_epochs=2", "monitor=train/loss")
    assert finished.code == 0, finished.err
    result = json.loads((tmp_path / "run/result.json").read_text())
    assert result["best"]["epoch"] == 2
    default = run("trainer.limit_val_batches=0", "trainer.max_epochs=2", "folder=b")
    assert default.code == 0, default.err
    assert "monitor=val/loss: the module does not log it; train/loss is monitored" in default.out


class Plain(LightningDataModule):
    """Two loaders, and no folds."""

    def train_dataloader(self) -> Any:
        return DataLoader(TensorDataset(torch.randn(40, 4), torch.arange(40) % 2), 8)

    def val_dataloader(self) -> Any:
        return DataLoader(TensorDataset(torch.randn(40, 4), torch.arange(40) % 2), 8)


def test_a_fold_of_data_that_takes_none_is_one_line(run: Run, tmp_path: Path) -> None:
    write_word(tmp_path, "data/plain", "_target_: template.test_module.Plain")
    finished = run("--config-dir=conf", "data=plain", "model=linear", "fold=1")
    assert (finished.code, finished.err.count("\n")) == (2, 1), finished.err
    assert finished.err.startswith("fold=1: expected null, because")


def test_a_run_whose_last_epoch_was_its_best_says_so(run: Run) -> None:
    finished = run("trainer.max_epochs=2")
    assert "The last epoch was the best: more epochs may help, trainer.max_epochs=4\n" in finished.out
    still = run("trainer.max_epochs=2", "optimizer.lr=1e-12", "monitor=val/acc", "mode=max", "folder=b")
    assert (still.code, "more epochs may help" in still.out) == (0, False)


# ---- averaged weights, compiled ones, and those of a GPU ---------------------------------------------------


def test_the_averaged_weights_that_were_validated_are_kept_tested_and_resumed_exactly(
    run: Run, tmp_path: Path
) -> None:
    words = ("callbacks=ema", "callbacks.ema.decay=0.9", "data.batch_size=128", "optimizer=sgd")
    for more in (["trainer.max_epochs=4", "folder=whole"], ["trainer.max_epochs=2", "folder=cut"]):
        finished = run(*words, *more)
        assert finished.code == 0, finished.err
    resumed = run("resume=cut", "trainer.max_epochs=4", f"folder={tmp_path}/cut")
    assert resumed.code == 0, resumed.err

    best = weights(tmp_path / "whole/checkpoints/best.ckpt")
    data = data_of(batch_size=128)
    model = MLP(**data.sizes, hidden=[256], dropout=0.0)
    model.load_state_dict({k.removeprefix("model."): v for k, v in best.items() if k.startswith("model.")})
    result = json.loads((tmp_path / "whole/result.json").read_text())
    for split, found in (("val", result["best"]), ("test", result["test"])):
        inputs, targets = data.take(split)
        with torch.no_grad():
            expected = nn.functional.cross_entropy(model(inputs), targets).item()
        assert found[f"{split}/loss"] == pytest.approx(expected, rel=1e-5)
    with (tmp_path / "whole/metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert float(rows[-1]["val/loss"]) == pytest.approx(result["best"]["val/loss"])
    plain = run(*words[2:], "trainer.max_epochs=4", "folder=plain")
    assert plain.code == 0, plain.err
    trained = weights(tmp_path / "plain/checkpoints/last.ckpt")
    assert not torch.equal(best["model.1.weight"], trained["model.1.weight"])

    for name in ("best", "last"):
        ours, theirs = (weights(tmp_path / f"{run}/checkpoints/{name}.ckpt") for run in ("cut", "whole"))
        assert all(torch.equal(value, theirs[key]) for key, value in ours.items()), name


COMPILED = ("compile=true", "trainer.accelerator=cpu", "trainer.max_epochs=2", "data.batch_size=64")


@compiles
def test_a_compiled_run_trains_as_the_same_run_does_uncompiled(run: Run, tmp_path: Path) -> None:
    compiled = run(*COMPILED, "folder=compiled", CUDA_HOME="/usr/local")  # a toolkit, maybe no GPU
    eager = run(*COMPILED[1:], "folder=eager")
    assert (compiled.code, compiled.err) == (0, "")
    assert "no working compiler" not in compiled.out
    assert "graph is not in TensorBoard" not in compiled.out
    results = [json.loads((tmp_path / n / "result.json").read_text())["test"] for n in ("compiled", "eager")]
    assert results[0] == pytest.approx(results[1], abs=2e-2)
    assert eager.code == 0


def test_without_a_compiler_one_line_says_so_and_the_run_goes_on(run: Run, tmp_path: Path) -> None:
    (tmp_path / "nothing").mkdir()
    finished = run(*COMPILED, PATH=f"{tmp_path}/nothing", CXX="", TORCHINDUCTOR_CACHE_DIR=f"{tmp_path}/cache")
    assert finished.code == 0, finished.err
    (line,) = [line for line in finished.out.splitlines() if line.startswith("compile=true: ")]
    assert line.startswith("compile=true: no working compiler here, so the model runs as it is (")
    assert "Epoch 2/2" in finished.out


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
@pytest.mark.parametrize(
    "words", [(), ("trainer.precision=bf16-mixed",), ("compile=true",), ("trainer=fast",)]
)
def test_a_run_on_the_gpu_ends_where_one_on_the_cpu_does(run: Run, words: tuple[str, ...]) -> None:
    finished = run(
        "trainer.accelerator=gpu", "trainer.devices=1", "trainer.max_epochs=10", *words, timeout=300
    )
    assert finished.code == 0, finished.err
    assert "no working compiler" not in finished.out
    assert float(finished.out.split("Test Acc: ")[1].split()[0].rstrip(",")) > 0.9


def test_a_tensor_of_values_trains_to_its_formula() -> None:
    inputs = torch.randn(200, 1, dtype=torch.float64)
    data = tensors(inputs.clone(), 1.7e9 + 60 * inputs, ["seconds"], batch_size=16)
    module = supervised(data, nn.Linear(1, 1), nn.MSELoss(), partial(torch.optim.SGD, lr=0.1), metrics={})
    trainer(max_epochs=20).fit(module, datamodule=data)
    with torch.no_grad():
        assert torch.allclose(module(inputs), 1.7e9 + 60 * inputs, rtol=0, atol=1e-3)
