"""The module and its trainer: raw inputs to units, groups of parameters, schedules, averages, epochs."""

import json
import re
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Run
from small import data_of, supervised, tensors, train_here, trainer
from torch import Tensor, nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from descent.data.digits import digits
from descent.errors import ConfigError
from descent.module import Supervised
from descent.optimizers import group_parameters
from descent.schedulers import Schedule
from descent.trainer import Trainer

compiles = pytest.mark.skipif(shutil.which("c++") is None, reason="torch's CPU back end needs a C++ compiler")


class Temperature(nn.Module):
    """Cross entropy of logits that a learned temperature divides (Guo et al., 2017)."""

    def __init__(self) -> None:
        super().__init__()
        self.log_temperature = nn.Parameter(torch.zeros(()))

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return nn.functional.cross_entropy(input / self.log_temperature.exp(), target)


def test_a_criterions_own_parameters_are_trained_along_and_a_loss_may_look_at_the_inputs() -> None:
    seen: list[tuple[int, ...]] = []

    class Sees(Supervised):
        def compute_loss(self, inputs: Tensor, outputs: Tensor, targets: Tensor) -> Tensor:
            seen.append(tuple(inputs.shape))
            return super().compute_loss(inputs, outputs, targets)

    data, criterion = data_of(), Temperature()
    module = supervised(data, criterion=criterion, kind=Sees)
    trainer().fit(module, datamodule=data)
    assert criterion.log_temperature.item() != 0
    assert "criterion.log_temperature" in module.state_dict()
    assert (64, 1, 8, 8) in seen


def test_forward_takes_raw_inputs_and_gives_probabilities_or_values_in_their_units() -> None:
    torch.manual_seed(0)
    data, raw = data_of(), digits()
    module = supervised(data)
    trainer(max_epochs=3).fit(module, datamodule=data)
    inputs = torch.randn(200, 1, dtype=torch.float64)
    seconds = tensors(inputs.clone(), 1.7e9 + 60 * inputs, ["seconds"], batch_size=16)
    line = supervised(seconds, nn.Linear(1, 1), nn.MSELoss(), partial(torch.optim.SGD, lr=0.1), metrics={})
    trainer(max_epochs=20).fit(line, datamodule=seconds)
    with torch.no_grad():
        chances = module.eval()(raw.inputs)
        assert torch.allclose(line(inputs), 1.7e9 + 60 * inputs, rtol=0, atol=1e-3)
    assert chances.sum(1) == pytest.approx(torch.ones(len(raw.targets)), abs=1e-5)
    assert (chances.argmax(1) == raw.targets).float().mean() > 0.7


def test_plain_lightning_validates_fits_and_tests_it() -> None:
    data, plain = data_of(), trainer()
    module, loader = supervised(data), data.val_dataloader()
    (before,) = plain.validate(module, loader, verbose=False)
    assert before.keys() == {"val/loss", "val/acc"}
    plain.fit(module, data.train_dataloader(), loader)
    (after,) = plain.test(module, loader, verbose=False)
    assert after["test/loss"] < before["val/loss"]


def test_groups_are_told_by_patterns_and_the_rate_falls_from_layer_to_layer() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 4), nn.Linear(4, 2))
    groups = {"vectors": {"weight_decay": 0.0}, "3.*": {"lr": 1.0}, "0.* 1.* 2.*": {"lr_decay": 0.5}}
    found = group_parameters(model, Temperature(), groups, lr=0.1)
    named = {id(p): n for n, p in model.named_parameters()}
    shown = {named.get(id(p), "criterion"): (group.get("lr"), group.get("weight_decay"))
             for group in found for p in group["params"]}  # fmt: skip
    rates = [0.1 * 0.5**4, 0.1 * 0.5**3, 0.1 * 0.5**2, 1.0]  # of layers 0 to 3
    for layer, rate in enumerate(rates):
        assert shown[f"{layer}.bias"] == (rate, 0.0)
        assert shown[f"{layer}.weight"] == (rate, 0.0 if layer == 1 else None)
    assert shown["criterion"] == (None, 0.0)
    with pytest.raises(ConfigError, match=r"^groups=3\.wieght: expected a pattern.*; nearest: 3\.weight$"):
        group_parameters(model, nn.ReLU(), {"3.wieght": {}})


@pytest.mark.parametrize(("epochs", "every", "steps"), [(4, 1, 4), (7, 3, 2)])
def test_a_plateau_is_looked_for_when_validation_has_run(epochs: int, every: int, steps: int) -> None:
    found = []

    class Witness(ReduceLROnPlateau):
        def step(self, metrics: Any, epoch: Any = None) -> None:  # type: ignore[override]
            found.append(float(metrics))
            super().step(metrics, epoch)

    data, schedule = data_of(batch_size=256), Schedule(Witness, "epoch", monitor="val/loss")
    fitted = trainer(max_epochs=epochs, check_val_every_n_epoch=every)
    fitted.fit(supervised(data, schedule=schedule), datamodule=data)
    assert len(found) == len(set(found)) == steps


def test_auto_is_40_epochs_and_more_where_those_have_few_batches(tmp_path: Path) -> None:
    make = partial(trainer, Trainer, default_root_dir=tmp_path)
    auto = [("auto", 90, 40), ("auto", 19, 43), ("auto", 2, 400), ("auto", None, 40), (7, 2, 7), (-1, 2, -1)]
    for epochs, batches, expected in auto:
        assert make(max_epochs=epochs, batches=batches).max_epochs == expected
    wrong = {"accumulate_grad_batches": 0, "max_epochs": -2, "gradient_clip_val": -1.0, "accelerator": "gqu"}
    for field, value in wrong.items():  # which Lightning does not look at, or not at once
        with pytest.raises(ConfigError, match=f"^{field}={value}: expected "):
            make(**{field: value})


def test_a_last_batch_of_one_with_batch_normalisation_is_one_line_before_training(
    tmp_path: Path, capsys: Any
) -> None:
    words = ("model=cnn", "model.channels=[8,8,8,8]", "data.batch_size=4", "trainer.max_epochs=1")
    with pytest.raises(ConfigError, match=r"^data\.batch_size: expected another size, or data\.drop_last"):
        train_here(tmp_path / "a", *words)
    assert "Epoch" not in capsys.readouterr().out
    train_here(tmp_path / "b", *words, "data.drop_last=true", "trainer.limit_train_batches=3")


def test_a_run_without_validation_keeps_the_best_by_its_training_loss(tmp_path: Path, capsys: Any) -> None:
    words = ("trainer.limit_val_batches=0", "trainer.max_epochs=2")
    assert train_here(tmp_path / "a", *words, "monitor=train/loss").result["best"]["epoch"] == 2
    train_here(tmp_path / "b", *words)
    out = capsys.readouterr().out
    assert "monitor=val/loss: the module does not log it, so train/loss is monitored" in out
    assert "The last epoch was the best: more epochs may help, trainer.max_epochs=4\n" in out
    train_here(tmp_path / "c", "trainer.max_epochs=2", "optimizer.lr=1e-12", "monitor=val/acc", "mode=max")
    assert "more epochs may help" not in capsys.readouterr().out


COMPILED = ("compile=true", "trainer.accelerator=cpu", "trainer.max_epochs=2", "data.batch_size=64")


@compiles
def test_a_compiled_run_trains_as_the_same_run_does_uncompiled(run: Run, tmp_path: Path) -> None:
    compiled = run(*COMPILED, CUDA_HOME="/usr/local")  # a toolkit, maybe no GPU
    remark = r".*Guards may run slower on Python 3\.13\.0\. .*\n.*warn\(\n"  # torch's, of that release only
    assert (compiled.code, re.sub(remark, "", compiled.err)) == (0, "")
    assert "no working compiler" not in compiled.out
    assert "graph is not in TensorBoard" not in compiled.out
    eager = train_here(tmp_path / "eager", *COMPILED[1:]).metrics
    assert json.loads((tmp_path / "run/result.json").read_text())["test"] == pytest.approx(eager, abs=2e-2)


def test_without_a_compiler_one_line_says_so_and_the_run_goes_on(run: Run, tmp_path: Path) -> None:
    (tmp_path / "nothing").mkdir()
    finished = run(*COMPILED, PATH=f"{tmp_path}/nothing", CXX="", TORCHINDUCTOR_CACHE_DIR=f"{tmp_path}/cache")
    assert finished.code == 0, finished.err
    (line,) = [line for line in finished.out.splitlines() if line.startswith("compile=true: ")]
    assert line.startswith("compile=true: no working compiler here, so the model runs uncompiled (")
    assert "Epoch 2/2" in finished.out


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
@pytest.mark.parametrize("word", ["seed=0", "trainer.precision=bf16-mixed", "compile=true", "trainer=fast"])
def test_a_run_on_the_gpu_ends_where_one_on_the_cpu_does(run: Run, word: str) -> None:
    words = ("trainer.accelerator=gpu", "trainer.devices=1", "trainer.max_epochs=10", word)
    finished = run(*words, timeout=300)
    assert finished.code == 0, finished.err
    assert "no working compiler" not in finished.out
    assert float(finished.out.split("Test Acc: ")[1].split()[0].rstrip(",")) > 0.9
