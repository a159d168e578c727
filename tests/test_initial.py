"""A run that starts from another one's weights."""

from pathlib import Path

import torch
from conftest import Run


def weights(folder: Path, name: str) -> dict[str, torch.Tensor]:
    return torch.load(folder / "checkpoints" / f"{name}.ckpt", weights_only=True)["state_dict"]


def test_a_run_starts_from_anothers_weights_and_leaves_the_frozen_ones_alone(
    run: Run, tmp_path: Path
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    short = ("trainer.max_epochs=1", "trainer.limit_train_batches=10")
    assert run(*short, f"folder={first}").code == 0
    finished = run(*short, "seed=1", f"init_from={first}", "freeze=['1.*']", f"folder={second}")
    assert finished.code == 0, finished.err
    before, after = weights(first, "best"), weights(second, "last")
    assert torch.equal(before["model.1.weight"], after["model.1.weight"])
    assert torch.equal(before["model.1.bias"], after["model.1.bias"])
    assert not torch.equal(before["model.3.weight"], after["model.3.weight"])
    assert "4 of 4" in finished.out, finished.out


def test_a_pattern_that_names_no_weight_is_one_line(run: Run) -> None:
    finished = run("freeze=['9.*']")
    assert (finished.code, finished.err.count("\n")) == (2, 1)
    assert finished.err.startswith("freeze=")
