"""How long a run trains, and what it says if that was too short."""

import json
import random
from pathlib import Path
from typing import Literal

import pytest
from conftest import Run

from descent.trainer import count_epochs


@pytest.mark.parametrize(
    ("epochs", "batches", "expected"),
    [
        ("auto", 90, 40),
        ("auto", 20, 40),
        ("auto", 19, 43),
        ("auto", 2, 400),
        ("auto", None, 40),
        (7, 2, 7),
        (-1, 2, -1),
    ],
)
def test_auto_is_40_epochs_and_more_where_those_have_few_batches(
    epochs: int | Literal["auto"], batches: int | None, expected: int
) -> None:
    assert count_epochs(epochs, batches) == expected


def test_a_small_table_is_trained_on_for_800_batches(run: Run, tmp_path: Path) -> None:
    chance = random.Random(0)
    rows = [f"{chance.random()},{'ab'[i % 2]}" for i in range(30)]
    (tmp_path / "small.csv").write_text("\n".join(["number,letter", *rows]))
    words = ("data=table", "data.path=small.csv", "data.target=letter", "data.batch_size=2", "logger=none")
    finished = run(*words)
    assert finished.code == 0, finished.err
    result = json.loads((tmp_path / "run/result.json").read_text())
    assert (result["epochs"], result["steps"]) == (67, 804)


def test_a_run_whose_last_epoch_was_its_best_says_so(run: Run) -> None:
    finished = run("trainer.max_epochs=2")
    told = "Val Loss was still falling at the last epoch: more epochs may help, trainer.max_epochs=4\n"
    assert told in finished.out
    still = run("trainer.max_epochs=2", "optimizer.lr=1e-12", "monitor=val/acc", "mode=max")
    assert (still.code, "at the last epoch" in still.out) == (0, False)
