"""A run that starts from another one's weights, and weights that stay as they are."""

from pathlib import Path

import pytest
import torch
from conftest import Run, make_run

from descent.run.checkpoints import read

SHORT = ("trainer.max_epochs=1", "trainer.limit_train_batches=10")


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on the digits."""
    return make_run(tmp_path_factory, *SHORT).folder / "run"


def weights(folder: Path, name: str) -> dict[str, torch.Tensor]:
    return read(folder / f"checkpoints/{name}.ckpt")["state_dict"]


def test_a_run_starts_from_anothers_weights_and_leaves_the_frozen_ones_alone(
    run: Run, first: Path, tmp_path: Path
) -> None:
    finished = run(*SHORT, "seed=1", f"init_from={first}", "freeze=['1.*']")
    assert finished.code == 0, finished.err
    assert finished.err == ""
    assert "init_from: 4 of 4 weights start from" in finished.out
    assert "freeze: 2 of 4 weights stay as they are: 1.weight, 1.bias" in finished.out
    assert run(f"resume={tmp_path}/run", "trainer.max_epochs=2").code == 0
    before, after = weights(first, "best"), weights(tmp_path / "run", "last")
    # other samples are in the training split, but the weights have learned the scaling of theirs
    assert all(torch.equal(before[n], after[n]) for n in ("model.1.weight", "model.1.bias", "scaling.mean"))
    assert not torch.equal(before["model.3.weight"], after["model.3.weight"])


def test_layers_that_do_not_match_start_anew_and_are_named(run: Run, first: Path) -> None:
    finished = run(*SHORT, f"init_from={first}", "model.hidden=[256,8]")
    assert finished.code == 0, finished.err
    assert "init_from: 2 of 6 weights start from" in finished.out
    assert "  new     3.weight (8, 256), (10, 256) there" in finished.out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("freeze=['9.*']",), "freeze=9.*: expected a pattern of names among 1.weight"),
        (("freeze=['*']",), "freeze=['*']: expected some weights left to train"),
        (("data=diabetes", "init_from={first}"), "classes"),
        (("model.hidden=[]", "init_from={first}"), "none has the same name and shape"),
        (("init_from={first}/..",), "expected a run's folder"),
        (("module._target_=plain.Module", "data._target_=plain.Data", "init_from={first}"), "init_from"),
    ],
)
def test_a_start_that_cannot_be_meant_is_one_line(
    run: Run, first: Path, words: tuple[str, ...], told: str
) -> None:
    finished = run(*(word.format(first=first) for word in words))
    assert (finished.code, finished.err.count("\n")) == (2, 1), finished
    assert told in finished.err
