"""What every part of a project should hold, found from conf/: a new file is tried without writing a test.

A part is tried with the defaults of conf/train.yaml. A comment line of its file can change that:

    # try with: data=diabetes model=mlp     overrides that it needs
    # not tried: it reads a file of yours   why it is only composed
"""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch

from descent.callbacks.checkpoint import Checkpoint
from descent.cli.check import check
from descent.cli.compose import compose
from descent.cli.runs import start
from descent.errors import ConfigError
from descent.notebook import load_job
from descent.paths import CONF, list_choices, list_groups
from descent.run.checkpoints import read
from descent.run.folder import RunFolder

PARTS = [(group, word) for group in list_groups() for word in list_choices(group)]
TRAINED = [(group, word) for group, word in PARTS if group in ("model", "module")]
FIRST = ["logger=none", "trainer.accelerator=cpu", "threads=1"]  # what any part is tried with
BATCHES = ["trainer.limit_train_batches=4", "trainer.limit_val_batches=2", "trainer.limit_test_batches=2"]
WRITERS = ("callbacks", "logger")  # groups that fast_dev_run turns off


class Killed(BaseException):
    """Ends a run between two batches, as a kill does."""


def text_of(group: str, word: str) -> str:
    return (CONF / group / f"{word}.yaml").read_text(encoding="utf-8")


def comment(group: str, word: str, mark: str) -> str:
    """Return what a file says behind a mark such as `# try with:`; "" where it says nothing."""
    found = re.search(rf"^# {mark}: (.+)$", text_of(group, word), re.MULTILINE)
    return found[1] if found else ""


def overrides(group: str, word: str) -> list[str]:
    """Return the overrides with which a part is tried; what is behind counts.

    A recipe for a sweep is tried with the first value of each list.
    """
    own = [f"{group}={word}", *shlex.split(comment(group, word, "try with"))]
    if group == "experiment":
        recipe = compose("train", own).recipe
        return [*own, *(f"{key}={value.split(',')[0]}" for key, value in recipe.items())]
    return [*(FIRST if group not in ("trainer", "logger") else []), *own]


def require_tools(group: str, word: str) -> None:
    """Skip a part that needs what this machine does not have, or files of one's own."""
    text = text_of(group, word)
    if reason := comment(group, word, "not tried"):
        pytest.skip(reason)
    if "download: true" in text:
        pytest.skip("it downloads its data")
    if "accelerator: gpu" in text and not torch.cuda.is_available():
        pytest.skip("it needs a GPU")


def train(folder: Path, words: list[str]) -> tuple[Any, Any]:
    """Train as the command does, and return the recorder and the trainer."""
    try:
        return start(load_job(), words if "resume=" in words[0] else [*words, f"folder={folder}"])
    except ConfigError as error:
        if re.search("to be installed|Module not found|No module named|not met", error.expected):
            pytest.skip(str(error))
        raise


@pytest.mark.parametrize(("group", "word"), PARTS)
def test_a_part_says_what_it_is_and_its_values_are_what_its_target_takes(group: str, word: str) -> None:
    lines = [line for line in text_of(group, word).splitlines() if "@package" not in line]
    assert re.match("# .{6,}", lines[0]), "the first line is what --help shows"
    if "download: true" in text_of(group, word) or comment(group, word, "not tried"):
        check("train", compose("train", overrides(group, word)).config, {})  # others are trained below


@pytest.mark.parametrize(("group", "word"), PARTS)
def test_a_part_trains(group: str, word: str, tmp_path: Path) -> None:
    require_tools(group, word)
    length = ["trainer.max_epochs=1", *BATCHES] if group in WRITERS else ["trainer.fast_dev_run=2"]
    _, trainer = train(tmp_path / "run", [*overrides(group, word), *length])
    figures = {**trainer.logged_metrics, **trainer.callback_metrics}
    assert trainer.global_step > 0
    assert figures
    assert all(torch.isfinite(value) for name, value in figures.items() if "loss" in name)


@pytest.mark.parametrize("word", list_choices("model"))
def test_a_model_learns_one_batch_by_heart(word: str, tmp_path: Path) -> None:
    require_tools("model", word)
    length = ["trainer.overfit_batches=1", "trainer.max_epochs=200", "trainer.check_val_every_n_epoch=200"]
    words = [*overrides("model", word), *length, "callbacks=none"]
    recorder, _ = train(tmp_path / "run", words)
    (name,) = [name for name in recorder.rows[0] if re.fullmatch("train.*loss", name)]
    assert recorder.rows[-1][name] < 0.3 * recorder.rows[0][name], "does every weight get a gradient?"


@pytest.mark.parametrize(("group", "word"), TRAINED)
def test_a_run_that_was_killed_goes_on_bit_for_bit(
    group: str, word: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_tools(group, word)
    words = [*overrides(group, word), *BATCHES, "trainer.max_epochs=2", "checkpoint.every=1step"]
    train(tmp_path / "whole", words)

    begin, count = Checkpoint.on_train_batch_start, 0

    def kill(*arguments: Any) -> None:
        nonlocal count
        begin(*arguments)
        count += 1
        if count == 7:  # the third batch of the second epoch
            raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Checkpoint, "on_train_batch_start", kill)
        train(tmp_path / "killed", words)
    train(tmp_path / "killed", [f"resume={tmp_path}/killed"])

    whole, killed = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "killed")
    for name in ("best", "last"):
        expected, found = (read(run.weights(name))["state_dict"] for run in (whole, killed))
        assert expected.keys() == found.keys()
        assert all(torch.equal(expected[key], found[key]) for key in expected)
    assert whole.metrics.read_text() == killed.metrics.read_text()
