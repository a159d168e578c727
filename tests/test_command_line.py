"""The command line as users meet it: words, help, and bad input told in one line."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import ROOT, Finished, Run

from checks import CONF, options

TRAIN = ROOT / "src" / "train.py"

TYPOS = [
    ("loss=mea", "one of", "mae"),
    ("optimiser=sgd", "a key of the config", "optimizer"),
    ("optimizer.lr=abc", "a number", ""),
    ("optimizer.weight_decy=0.9", "a key of the config", "optimizer.weight_decay"),
    ("trainer.max_epochs=-5", "`max_epochs`", ""),
    ("trainer.max_epochs=ten", "a whole number", ""),
    ("trainer.max_epoch=3", "a key of the config", "trainer.max_epochs"),
    ("trainer.accelerator=gpuu", "one of", "gpu"),
    ("trainer.precision=bf15-mixed", "one of", "bf16-mixed"),
    ("model.hidden=[0]", "at least 1", ""),
    ("model.hidden=64", "a list", ""),
    ("model.dropout=1.5", "a number from 0", ""),
    ("data.batch_size=0", "at least 1", ""),
    ("data.batch_size=1.5", "a whole number", ""),
    ("data.val_fraction=2", "between 0 and 1", ""),
    ("seed=-1", "a whole number", ""),
    ("seed=${foo}", "a value that exists", ""),
    ("mode=minimum", "one of", "min"),
    ("monitor=val/acccc", "one of", "val/acc"),
    ("lr=0.1", "a key of the config", "optimizer.lr"),
    ("experiment=tutorail", "one of", "tutorial"),
    ("loss._target_=torch.nn.L2Loss", "can be imported", "L1Loss"),
    ("loss.reduction=none", "mean or sum", ""),
    ("optimizer.lr=-1", "Invalid learning rate", ""),
    ("scheduler=", "one of", ""),
    ("threads=100000000", "from 1 to", ""),
    ("loss.label_smoothing=2", "between 0.0 and 1.0", ""),
    ("trainer.check_val_every_n_epoch=0", "at least 1", ""),
]


def assert_one_line(finished: Finished, *parts: str) -> None:
    """Exit code 2, one line on stderr with these parts, nothing else, and no folder left."""
    assert finished.code == 2, finished
    assert finished.err.count("\n") == 1, finished
    assert all(part in finished.err for part in parts), finished
    assert "Traceback" not in finished.err + finished.out
    assert [p.name for p in finished.folder.iterdir() if p.name[0] != "."] == []


@pytest.mark.parametrize(("word", "expected", "near"), TYPOS)
def test_a_typo_is_one_line_that_names_it(run: Run, word: str, expected: str, near: str) -> None:
    assert_one_line(run(word), f"{word}: expected", expected, f"nearest: {near}" if near else "")


@pytest.mark.skipif(torch.cuda.is_available() or torch.backends.mps.is_available(), reason="there is a GPU")
def test_a_gpu_where_there_is_none_is_one_line_that_names_what_there_is(run: Run) -> None:
    assert_one_line(run("trainer.accelerator=gpu"), "trainer.accelerator=gpu", "what this machine has: cpu")


def test_a_loss_on_classes_for_real_valued_targets_is_one_line(run: Run) -> None:
    assert_one_line(run("data=diabetes", "loss=cross_entropy"), "loss=", "a loss on values (mae, mse")


def test_every_metric_that_is_looked_at_is_one_that_is_logged(run: Run) -> None:
    wrong = run("scheduler=plateau", "scheduler.monitor=val/los")
    assert_one_line(wrong, "scheduler.monitor=val/los", "nearest: val/loss")


def test_an_optimizer_that_can_not_serve_the_model_is_one_line(run: Run) -> None:
    assert_one_line(run("optimizer=sparse_adam"), "optimizer", "sparse gradients")


def test_a_schedule_for_a_run_without_end_is_one_line(run: Run) -> None:
    assert_one_line(run("scheduler=cosine", "trainer.max_epochs=-1"), "T_max", "no end")


def test_the_traceback_is_there_for_who_asks(run: Run) -> None:
    finished = run("model.hidden=[0]", HYDRA_FULL_ERROR="1")
    assert finished.code == 1
    assert "Traceback" in finished.err
    assert "hidden=[0]" in finished.err


def test_a_bug_in_code_of_ones_own_keeps_its_traceback(run: Run) -> None:
    finished = run("model._target_=augmented.broken")
    assert finished.code == 1
    assert "NameError: name 'forgotten' is not defined" in finished.err
    assert "augmented.py" in finished.err


def test_help_lists_every_choice_with_a_line_on_it(run: Run) -> None:
    finished = run("--help")
    assert finished.code == 0
    lines = [line.split(maxsplit=1) for line in finished.out.splitlines()]
    for group in (folder.name for folder in CONF.iterdir() if folder.is_dir()):
        assert any(line[:1] == [group] for line in lines), group
        for word in options(group):
            assert any(line[0] == word and len(line) == 2 for line in lines if line), (group, word)


def test_cfg_job_prints_the_run_without_running_it(run: Run) -> None:
    finished = run("--cfg", "job", "loss=mae", "optimizer.lr=0.5")
    assert finished.code == 0
    assert "_target_: descent.losses.MeanAbsoluteError" in finished.out
    assert "lr: 0.5" in finished.out
    assert not (finished.folder / "run").exists()


@pytest.mark.parametrize("word", ["--help", "--cfg=job"])
def test_help_and_cfg_import_nothing_heavy(word: str) -> None:
    code = f"""
import runpy, sys
sys.argv = [{str(TRAIN)!r}, *{word.split("=")!r}]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
except SystemExit:
    pass
print([name for name in ("torch", "lightning", "numpy", "torchmetrics", "sklearn") if name in sys.modules])
"""
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True
    )
    assert answer.stdout.splitlines()[-1] == "[]", answer.stdout


def test_any_other_loss_by_its_name_in_torch(run: Run) -> None:
    finished = run("loss._target_=torch.nn.MultiMarginLoss", "trainer.fast_dev_run=2")
    assert finished.code == 0, finished.err
    assert "loss.ignore_index is left out: torch.nn.MultiMarginLoss does not take it" in finished.out


def test_every_trainer_argument_is_overridden_without_plus(run: Run) -> None:
    words = ["accumulate_grad_batches=2", "gradient_clip_val=0.5", "precision=64-true", "max_epochs=1"]
    words += ["limit_train_batches=4", "deterministic=true", "num_sanity_val_steps=0", "val_check_interval=2"]
    finished = run(*(f"trainer.{word}" for word in words))
    assert finished.code == 0, finished.err
    assert "Epoch 1/1, Train Loss: " in finished.out


def test_it_runs_as_a_script_from_any_working_directory(tmp_path: Path) -> None:
    words = ["trainer.max_epochs=1", "trainer.limit_train_batches=2", f"folder={tmp_path}/here"]
    answer = subprocess.run(
        [sys.executable, TRAIN, *words], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert answer.returncode == 0, answer.stderr
    assert (tmp_path / "here/result.json").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["here"]
