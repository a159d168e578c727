"""Cross-validation: every sample is held out once, and nothing that is fitted has seen it."""

import pytest
import torch
from conftest import Run
from sklearn.model_selection import StratifiedKFold

from descent.data.diabetes import diabetes
from descent.data.digits import digits
from descent.data.samples import FromSamples, Samples
from descent.errors import ConfigError

SETTINGS = {
    "batch_size": 16,
    "eval_batch_size": 64,
    "val_fraction": 0.1,
    "test_fraction": 0.1,
    "label_noise": 0.0,
}


def fold(source, number: int, folds: int = 5, seed: int = 0) -> FromSamples:
    return FromSamples(source, **SETTINGS, seed=seed, fold=number, folds=folds)  # type: ignore[arg-type]


@pytest.mark.parametrize("source", [digits, diabetes])
def test_every_sample_is_held_out_once_and_is_in_one_split_of_each_fold(source) -> None:
    data = [fold(source, number) for number in range(5)]
    n = len(source().targets)
    held = torch.cat([one.rows["test"] for one in data])
    assert held.sort().values.tolist() == list(range(n))
    for one in data:
        assert torch.cat(list(one.rows.values())).sort().values.tolist() == list(range(n))


def test_the_classes_are_spread_as_scikit_learn_does() -> None:
    targets = digits().targets
    ours = torch.stack([targets[fold(digits, number).rows["test"]].bincount() for number in range(5)])
    splits = StratifiedKFold(5, shuffle=True, random_state=0).split(targets, targets)
    theirs = torch.stack([targets[test].bincount() for _, test in splits])
    assert (ours.max(0).values - ours.min(0).values).max() <= 1
    assert torch.equal(ours.sort(0).values, theirs.sort(0).values)
    sizes = ours.sum(1)
    assert sizes.max() - sizes.min() <= 1


def test_the_scaling_has_not_seen_what_is_held_out() -> None:
    data = fold(digits, 2)
    changed = digits()
    assert isinstance(changed.inputs, torch.Tensor)
    changed.inputs = changed.inputs.float()
    changed.inputs[data.rows["test"]] += 1000
    other = fold(lambda: changed, 2)
    for name, value in data.scaling.named_buffers():
        assert torch.equal(value, dict(other.scaling.named_buffers())[name]), name


def test_another_seed_deals_the_samples_out_in_another_way() -> None:
    assert not torch.equal(fold(digits, 0).rows["test"], fold(digits, 0, seed=1).rows["test"])


@pytest.mark.parametrize(
    ("number", "folds", "told"),
    [
        (5, 5, "fold=5: expected a whole number from 0 to 4"),
        (0, 1, "folds=1: expected"),
        (-1, 3, "fold=-1: exp"),
    ],
)
def test_a_fold_that_is_not_there_is_one_line(number: int, folds: int, told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        fold(digits, number, folds)
    assert caught.value.line({}).startswith(told)


def test_data_with_a_test_split_of_its_own_is_refused() -> None:
    def source() -> Samples:
        rows = {"train": torch.arange(80), "test": torch.arange(80, 100)}
        return Samples(torch.randn(100, 3), torch.arange(100) % 2, ["a", "b"], rows)

    with pytest.raises(ConfigError, match="a test split of its own"):
        fold(source, 0)


def test_a_sweep_over_the_folds_gives_mean_and_spread(run: Run) -> None:
    short = ["trainer.max_epochs=1", "data.batch_size=64", "folder=sweep"]
    finished = run("-m", "fold=0,1,2", "folds=3", "loss=mae,cross_entropy", *short)
    assert finished.code == 0, finished.err
    rows = [line for line in finished.out.splitlines() if line.count(" ± ") > 1]
    assert len(rows) == 2
    assert all(line.split()[-2] == "3" for line in rows)  # runs
