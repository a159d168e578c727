"""Splits, normalisation, batches: what reaches the model."""

import pytest
import torch

from descent.data.batches import Batches
from descent.data.bundled import diabetes, digits, read
from descent.data.memory import InMemory
from descent.errors import ConfigError

HALVES = {"batch_size": 16, "eval_batch_size": 64, "val_fraction": 0.2, "test_fraction": 0.1}


def counts(targets: torch.Tensor) -> list[int]:
    return torch.bincount(targets, minlength=10).tolist()


def splits(data: InMemory) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [data.train, data.val, data.test]


def test_splits_cover_the_data_once_and_are_a_function_of_the_seed() -> None:
    rows = torch.arange(1000.0).reshape(-1, 1)

    def split(seed: int) -> InMemory:
        return InMemory(rows.clone(), torch.arange(1000) % 3, ["a", "b", "c"], **HALVES, seed=seed)  # type: ignore[arg-type]

    data, again, other = split(0), split(0), split(1)
    everything = torch.cat([data.train[0], data.val[0], data.test[0]]) * data.input_std + data.input_mean
    assert torch.equal(everything.round().flatten().sort().values, rows.flatten())
    assert [len(part[1]) for part in splits(data)] == [700, 200, 100]
    assert all(torch.equal(a[0], b[0]) for a, b in zip(splits(data), splits(again), strict=True))
    assert not torch.equal(data.val[1], other.val[1])


def test_classes_are_shared_out_evenly() -> None:
    data = digits(**HALVES, seed=3, label_noise=0.0)  # type: ignore[arg-type]
    whole = counts(torch.cat([part[1] for part in splits(data)]))
    for share, part in ((0.7, data.train), (0.2, data.val), (0.1, data.test)):
        assert all(abs(n - share * total) <= 1.5 for n, total in zip(counts(part[1]), whole, strict=True))


def test_inputs_are_normalised_with_the_training_split_alone() -> None:
    rows = torch.randn(500, 3) * torch.tensor([1.0, 10.0, 0.0]) + torch.tensor([0.0, 5.0, 2.0])
    raw = rows.clone()
    data = InMemory(rows, torch.randn(500, 1), ["y"], **HALVES, seed=0)  # type: ignore[arg-type]
    train = data.train[0]
    assert torch.allclose(train.mean(0), torch.zeros(3), atol=1e-5)
    assert torch.allclose(train.std(0, correction=0), torch.tensor([1.0, 1.0, 0.0]), atol=1e-5)  # a constant
    val = data.val[0] * data.input_std + data.input_mean
    assert torch.allclose(val.sum(0), sum_of_matches(raw, val), rtol=1e-4)
    assert not torch.allclose(data.val[0].mean(0)[:2], torch.zeros(2), atol=1e-4)


def sum_of_matches(raw: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    return raw[torch.cdist(rows, raw).argmin(1)].sum(0)


def test_regression_targets_are_standardised_with_the_training_split() -> None:
    data = diabetes(**HALVES, seed=0)  # type: ignore[arg-type]
    assert data.train[1].mean().abs() < 1e-5
    assert data.train[1].std(correction=0).item() == pytest.approx(1, abs=1e-5)
    own_units = data.val[1] * data.target_std + data.target_mean
    assert 24 < own_units.min() < own_units.max() < 347


def test_bytes_are_normalised_by_channel_as_they_are_gathered() -> None:
    images = torch.randint(0, 256, (300, 3, 4, 4), dtype=torch.uint8)
    data = InMemory(images, torch.arange(300) % 2, ["a", "b"], **HALVES, seed=0, per_channel=True)  # type: ignore[arg-type]
    assert data.train[0].dtype == torch.uint8
    batches = torch.cat([inputs for inputs, _ in data.train_dataloader()])
    assert torch.allclose(batches.mean((0, 2, 3)), torch.zeros(3), atol=1e-4)
    assert torch.allclose(batches.std((0, 2, 3), correction=0), torch.ones(3), atol=1e-4)


def test_label_noise_replaces_a_share_of_training_labels_only() -> None:
    clean, noisy = (digits(**HALVES, seed=0, label_noise=share) for share in (0.0, 0.4))  # type: ignore[arg-type]
    changed = (clean.train[1] != noisy.train[1]).float().mean().item()
    assert changed == pytest.approx(0.4, abs=0.05)
    assert torch.equal(clean.val[1], noisy.val[1])
    assert torch.equal(clean.test[1], noisy.test[1])


@pytest.mark.parametrize(
    ("field", "value"),
    [("batch_size", 0), ("eval_batch_size", 0), ("val_fraction", 1.0), ("test_fraction", 0.0)],
)
def test_sizes_that_can_not_be_are_named(field: str, value: float) -> None:
    with pytest.raises(ConfigError, match=f"^{field}={value}: expected "):
        diabetes(**{**HALVES, field: value}, seed=0)  # type: ignore[arg-type]


def test_an_epochs_order_is_a_function_of_seed_and_epoch_alone() -> None:
    rows = torch.arange(100)

    def epoch(seed: int, number: int) -> list[int]:
        batches = Batches(rows, rows, 16, seed)
        batches.set_epoch(number)
        torch.rand(number + 1)  # the global random state has no say
        return torch.cat([targets for _, targets in batches]).tolist()

    assert epoch(0, 3) == epoch(0, 3)
    assert epoch(0, 3) != epoch(0, 4)
    assert epoch(0, 1) != epoch(1, 0)
    assert sorted(epoch(0, 3)) == rows.tolist()


def test_the_last_batch_may_be_smaller_and_none_is_lost() -> None:
    batches = Batches(torch.arange(100), torch.arange(100), 16, 0)
    assert [len(targets) for _, targets in batches] == [16] * 6 + [4]
    assert len(batches) == 7


def test_processes_share_an_epoch_without_overlap_beyond_the_padding() -> None:
    rows = torch.arange(101)
    shares = [Batches(rows, rows, 16, 0, rank=rank, world_size=4) for rank in range(4)]
    seen = [torch.cat([targets for _, targets in share]).tolist() for share in shares]
    assert {len(share) for share in seen} == {26}
    assert len({len(share) for share in shares}) == 1
    assert set().union(*seen) == set(rows.tolist())
    in_order = [Batches(rows, rows, 16, rank=rank, world_size=4) for rank in range(4)]
    assert sorted(int(t) for share in in_order for _, targets in share for t in targets) == rows.tolist()


def test_bundled_data_is_what_scikit_learn_loads() -> None:
    from sklearn.datasets import load_diabetes, load_digits

    images, classes = load_digits(return_X_y=True)
    expected = torch.cat([torch.tensor(images), torch.tensor(classes).reshape(-1, 1)], dim=1)
    assert torch.equal(read("digits.csv.gz", delimiter=","), expected)
    measurements, progression = load_diabetes(return_X_y=True, scaled=False)
    assert torch.equal(read("diabetes_data_raw.csv.gz"), torch.tensor(measurements))
    assert torch.equal(read("diabetes_target.csv.gz"), torch.tensor(progression))


def test_an_official_test_split_is_normalised_and_standardised_like_the_others() -> None:
    rows, values = torch.randn(1000, 3) * 5 + 7, torch.randn(1000, 1) * 20 + 100
    test = rows[:50].clone(), values[:50].clone()
    arguments = HALVES | {"test_fraction": None}
    data = InMemory(rows.clone(), values, ["y"], **arguments, test=test, seed=0)  # type: ignore[arg-type]
    ((inputs, targets),) = data.test_dataloader()
    assert torch.allclose(inputs * data.input_std + data.input_mean, rows[:50], atol=1e-4)
    assert torch.allclose(targets * data.target_std + data.target_mean, values[:50], atol=1e-4)


def test_the_data_is_held_once() -> None:
    rows = torch.randn(1000, 3)
    data = InMemory(rows, torch.arange(1000) % 3, ["a", "b", "c"], **HALVES, seed=0)  # type: ignore[arg-type]
    loaders = data.train_dataloader(), data.val_dataloader(), data.test_dataloader()
    assert {loader.inputs.data_ptr() for loader in loaders} == {rows.data_ptr()}
    seen = [torch.cat([inputs for inputs, _ in loader]) for loader in loaders]
    assert torch.equal(torch.cat(seen).sort(0).values, rows.sort(0).values)
