"""`compile=true` and `compile=step`: the same training, compiled where there is a compiler."""

import os
import shutil
import signal
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT, Run
from lightning.pytorch import Callback
from torch import nn
from torch.optim import SGD, Adam
from torch.optim.lr_scheduler import CosineAnnealingLR

from descent.callbacks.nan_guard import NaNGuard
from descent.data.digits import digits
from descent.data.samples import FromSamples
from descent.metrics import Accuracy
from descent.models import CNN, MLP
from descent.module import Supervised
from descent.optimizers import Muon
from descent.schedulers import Schedule
from descent.step_graph import can_trace_backward
from descent.trainer import Trainer

sys.path.insert(0, str(ROOT / "benchmarks"))
import faults

WORDS = ("compile=true", "trainer.accelerator=cpu", "trainer.max_epochs=2", "data.batch_size=64")
compiles = pytest.mark.skipif(shutil.which("c++") is None, reason="torch's CPU back end needs a C++ compiler")
traces = pytest.mark.skipif(not can_trace_backward(), reason="needs torch 2.15, which traces a backward pass")


@compiles
def test_a_compiled_run_trains_as_the_same_run_does_uncompiled(run: Run, tmp_path: Path) -> None:
    compiled = run(*WORDS, f"folder={tmp_path}/compiled", CUDA_HOME="/usr/local")  # a toolkit, maybe no GPU
    eager = run(*WORDS[1:], f"folder={tmp_path}/eager")
    assert (compiled.code, compiled.err) == (0, "")
    assert "no working compiler" not in compiled.out
    assert "graph is not in TensorBoard" not in compiled.out

    def figures(out: str) -> list[float]:
        words = " ".join(line for line in out.splitlines() if line.startswith("Epoch ")).split()
        return [float(word.rstrip(",")) for word in words if "." in word]

    assert figures(compiled.out) == pytest.approx(figures(eager.out), abs=2e-3)


@pytest.mark.parametrize(
    ("word", "line"),
    [
        ("compile=true", "compile=true: no working compiler here, so the model runs as it is ("),
        pytest.param("compile=step", "compile=step: cannot compile this (", marks=traces),
    ],
)
def test_without_a_compiler_one_line_says_so_and_the_run_goes_on(
    run: Run, tmp_path: Path, word: str, line: str
) -> None:
    nothing = tmp_path / "no_compiler"
    nothing.mkdir()
    words = (word, *WORDS[1:])
    finished = run(*words, PATH=str(nothing), CXX="", TORCHINDUCTOR_CACHE_DIR=str(tmp_path / "cache"))
    assert finished.code == 0, finished.err
    said = [line for line in finished.out.splitlines() if line.startswith(f"{word}: ")]
    assert len(said) == 1
    assert said[0].startswith(line)
    assert "Epoch 2/2" in finished.out


def fit(compile: Any, folder: Path, optimizer: Any, more: Any = (), **arguments: Any) -> Trainer:
    """Train for two epochs of six batches, the last of which is smaller, with a rate that always changes."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    sizes = {"batch_size": 256, "eval_batch_size": 512, "val_fraction": 0.1, "test_fraction": 0.1}
    data = FromSamples(digits, **sizes, seed=0, label_noise=0.0, fold=None, folds=5)  # type: ignore[arg-type]
    parts: dict[str, Any] = {
        "model": partial(MLP, hidden=[32], dropout=0.0),
        "criterion": nn.CrossEntropyLoss(),
        "schedule": Schedule(CosineAnnealingLR, "step", T_max=None),
        "kind": Supervised,
        "callbacks": [NaNGuard("skip")],  # which looks at the gradients before each step
    } | dict(more)
    kind, model = parts.pop("kind"), parts.pop("model")(data.input_shape, data.outputs)
    trainer = Trainer(
        loop="lean",
        compile=compile,
        accelerator="cpu",
        max_epochs=2,
        callbacks=parts.pop("callbacks"),
        logger=False,
        default_root_dir=folder,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **arguments,
    )
    module = kind(
        **parts, model=model, optimizer=optimizer, metrics={"acc": Accuracy()}, scaling=data.scaling
    )
    trainer.fit(module, data)
    return trainer


def weights(trainer: Trainer) -> torch.Tensor:
    return nn.utils.parameters_to_vector(trainer.lightning_module.parameters()).detach()


class Doubled(Supervised):
    """Looks at the inputs for its loss."""

    def compute_loss(self, inputs: Any, outputs: Any, targets: Any) -> torch.Tensor:
        return 2 * self.criterion(outputs, targets) + inputs.mean().square() * outputs.square().mean()


@compiles
@traces
@pytest.mark.parametrize(
    ("optimizer", "more", "arguments"),
    [
        (partial(Adam, lr=0.01, fused=True, weight_decay=0.01), {}, {"gradient_clip_val": 0.1}),
        (partial(SGD, lr=0.1, momentum=0.9), {"kind": Doubled}, {}),
        (
            partial(Adam, lr=0.01),
            {"model": partial(CNN, channels=[4], dropout=0.0)},
            {"precision": "bf16-mixed"},
        ),
        (
            lambda p: Muon(p, 0.02, 0.1, 0.95, True, (3.4445, -4.775, 2.0315), 1e-7, 5, None, 1e-3),
            {},
            {},
        ),
    ],
    ids=["adam clipped", "sgd", "cnn in bf16", "muon"],
)
def test_steps_in_one_graph_are_those_of_torch_but_for_rounding(
    tmp_path: Path, capsys: Any, optimizer: Any, more: dict[str, Any], arguments: dict[str, Any]
) -> None:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    compiled = fit("step", tmp_path, optimizer, more, **arguments)
    said = capsys.readouterr().out.splitlines()
    assert [line.rpartition(" in ")[0] for line in said] == [
        "compile=step: compiled for batches of 256",
        "compile=step: compiled for batches of 157",
    ]
    # whatever the rate is
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 2
    assert compiled.global_step == 12
    eager = fit(False, tmp_path, optimizer, more, **arguments)
    for name, value in eager.callback_metrics.items():
        assert float(compiled.callback_metrics[name]) == pytest.approx(float(value), rel=1e-2), name
    assert torch.allclose(weights(compiled), weights(eager), atol=2e-2 if "precision" in arguments else 1e-4)


@compiles
@traces
def test_the_smaller_batch_of_a_long_epoch_gets_no_graph(
    tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    monkeypatch.setattr("descent.loop.LONG", 5)
    assert fit("step", tmp_path, partial(SGD, lr=0.1)).global_step == 12
    assert capsys.readouterr().out.startswith("compile=step: compiled for batches of 256 in ")
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


class Noted(Supervised):
    """Has a step of its own."""

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return super().training_step(batch, batch_idx)


class Untraceable(nn.CrossEntropyLoss):
    """Asks for a number in the middle of the step, and acts by it."""

    def forward(self, input: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        loss = super().forward(input, target)
        return loss if loss.item() < 100 else loss / 2


class Listener(Callback):
    def on_before_backward(self, *arguments: Any) -> None:
        pass


@traces
@pytest.mark.parametrize(
    ("more", "arguments", "reason"),
    [
        ({}, {"accumulate_grad_batches": 2}, "does not go with accumulate_grad_batches"),
        ({}, {"precision": "64-true"}, "does not go with trainer.precision=64-true"),
        ({}, {"profiler": "simple"}, "does not go with a profiler"),
        ({"kind": Noted}, {}, "does not go with training_step"),
        ({"callbacks": [Listener()]}, {}, "does not go with on_before_backward"),
        ({"criterion": Untraceable()}, {}, "cannot compile this ("),
    ],
)
def test_where_a_step_cannot_be_compiled_one_line_says_so_and_the_bits_are_those_of_torch(
    tmp_path: Path, capsys: Any, more: dict[str, Any], arguments: dict[str, Any], reason: str
) -> None:
    optimizer = partial(Adam, lr=0.01, fused=True)
    compiled = fit("step", tmp_path, optimizer, more, **arguments)
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "compile=" in line]
    assert line.startswith(f"compile=step: {reason}")
    assert line.endswith(", so the steps run as they are")
    assert torch.equal(weights(compiled), weights(fit(False, tmp_path, optimizer, more, **arguments)))


def test_an_older_torch_is_one_line(tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("descent.loop.can_trace_backward", lambda: False)
    fit("step", tmp_path, partial(Adam, lr=0.01))
    reason = f"needs torch 2.15, and this is {torch.__version__}"
    assert capsys.readouterr().out == f"compile=step: {reason}, so the steps run as they are\n"


def test_lightnings_own_loop_is_refused(run: Run) -> None:
    finished = run("compile=step", "loop=lightning")
    assert (finished.code, finished.err.count("\n")) == (2, 1)
    assert finished.err.startswith("trainer.loop=lightning: expected lean")


@compiles
@traces
def test_a_compiled_run_that_is_killed_ends_with_the_bits_of_one_that_is_not(tmp_path: Path) -> None:
    words = ["compile=step", *WORDS[1:2], "scheduler=cosine", "model.dropout=0.3", "data.batch_size=64"]
    words += ["trainer.max_epochs=20", "checkpoint.every=5steps"]
    whole, cut = (faults.Job(words, tmp_path / name) for name in ("whole", "cut"))
    assert whole.finish() == 0, whole.error()
    process = cut.start()
    while process.is_alive() and not (cut.folder / "run/checkpoints/previous.ckpt").exists():
        time.sleep(0.005)
    os.kill(process.pid or 0, signal.SIGKILL)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert cut.finish("resume=true") == 0, cut.error()
    for job in (whole, cut):
        assert "compile=step: compiled for batches of 64 in " in job.said()
    assert not faults.differences(faults.ending(cut.folder / "run"), faults.ending(whole.folder / "run"))
