"""Splits, scaling, batches: what reaches the model."""

from typing import Any

import pytest
import torch
from augmented import Augmented
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn

from descent.data.batches import Batches, Loader, Order
from descent.data.diabetes import diabetes
from descent.data.digits import digits
from descent.data.samples import FromSamples, Samples
from descent.errors import ConfigError

SETTINGS: dict[str, Any] = {
    "batch_size": 16,
    "eval_batch_size": 64,
    "val_fraction": 0.2,
    "test_fraction": 0.1,
    "seed": 0,
    "label_noise": 0.0,
    "fold": None,
    "folds": 5,
}
SPLITS = ("train", "val", "test")


def data_of(inputs: Any, targets: Tensor, names: list[str], **settings: Any) -> FromSamples:
    """Return data of tensors; settings of `Samples` and of `FromSamples`."""
    own = {name: settings.pop(name) for name in ("rows", "per_channel") if name in settings}
    return FromSamples(lambda: Samples(inputs, targets, names, **own), **{**SETTINGS, **settings})


def counts(targets: Tensor) -> list[int]:
    return torch.bincount(targets, minlength=10).tolist()


class Stored:
    """Bytes as inputs that are read one by one, mirrored in training, or not at all."""

    def __init__(self, images: Tensor, workers: int = 0, mirrored: bool = True) -> None:
        self.images, self.workers = images, workers
        self.augment = self.mirror if mirrored else None

    def mirror(self, image: Tensor) -> Tensor:
        return image.flip(2) if torch.rand(()) < 0.5 else image

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, row: int) -> Tensor:
        return self.images[row]

    def moments(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        values = self.images[rows].double()
        return values.mean((0, 2, 3))[:, None, None], values.square().mean((0, 2, 3))[:, None, None]


def test_splits_cover_the_data_once_and_are_a_function_of_the_seed() -> None:
    rows = torch.arange(1000.0).reshape(-1, 1)

    def split(seed: int) -> FromSamples:
        return data_of(rows.clone(), torch.arange(1000) % 3, ["a", "b", "c"], seed=seed)

    data, again, other = split(0), split(0), split(1)
    parts = [data.take(name) for name in SPLITS]
    everything = torch.cat([inputs for inputs, _ in parts]) * data.scaling.input_std + data.scaling.input_mean
    assert torch.equal(everything.round().flatten().sort().values, rows.flatten())
    assert [len(targets) for _, targets in parts] == [700, 200, 100]
    assert all(torch.equal(data.rows[name], again.rows[name]) for name in SPLITS)
    assert not torch.equal(data.rows["val"], other.rows["val"])


def test_classes_are_shared_out_evenly_and_those_of_training_are_counted() -> None:
    data = FromSamples(digits, **SETTINGS | {"seed": 3})
    whole = counts(data.targets)
    for share, name in ((0.7, "train"), (0.2, "val"), (0.1, "test")):
        found = counts(data.take(name)[1])
        assert all(abs(n - share * total) <= 1.5 for n, total in zip(found, whole, strict=True))
    assert data.class_counts == counts(data.take("train")[1])


def test_given_splits_stay_as_they_are_and_missing_ones_are_drawn_from_the_training_rows() -> None:
    rows = {"train": torch.arange(80), "test": torch.arange(90, 100)}  # 80 to 89 are left out
    data = data_of(torch.randn(100, 2), torch.arange(100) % 2, ["a", "b"], rows=rows, test_fraction=None)
    assert torch.equal(data.rows["test"], rows["test"])
    assert torch.equal(torch.cat([data.rows["train"], data.rows["val"]]).sort().values, rows["train"])
    assert len(data.rows["val"]) == 16


def test_inputs_are_scaled_with_the_training_split_alone() -> None:
    rows = torch.randn(500, 3) * torch.tensor([1.0, 10.0, 0.0]) + torch.tensor([0.0, 5.0, 2.0])
    raw = rows.clone()
    data = data_of(rows, torch.randn(500, 1), ["y"])
    train, _ = data.take("train")
    assert torch.allclose(train.mean(0), torch.zeros(3), atol=1e-5)
    assert torch.allclose(train.std(0, correction=0), torch.tensor([1.0, 1.0, 0.0]), atol=1e-5)  # a constant
    assert torch.equal(data.take("val")[0], data.scaling.scale(raw[data.rows["val"]]))
    assert not torch.allclose(data.take("val")[0].mean(0)[:2], torch.zeros(2), atol=1e-4)


def test_values_are_standardised_with_the_training_split() -> None:
    data = FromSamples(diabetes, **SETTINGS)
    values = data.take("train")[1]
    assert values.mean().abs() < 1e-5
    assert values.std(correction=0).item() == pytest.approx(1, abs=1e-5)
    own_units = data.scaling.unscale(data.take("val")[1])
    assert 24 < own_units.min() < own_units.max() < 347
    assert data.describe() == {
        "task": "regression",
        "input_shape": [10],
        "outputs": 1,
        "names": ["progression"],
        "class_counts": [],
        "fingerprint": data.fingerprint,
        "reader": {"kind": "array"},
    }


@pytest.mark.parametrize("stored", [False, True])
def test_bytes_are_scaled_by_channel_as_they_are_gathered(stored: bool) -> None:
    images = torch.randint(0, 256, (300, 3, 4, 4), dtype=torch.uint8)
    inputs = Stored(images) if stored else images
    data = data_of(inputs, torch.arange(300) % 2, ["a", "b"], per_channel=True)
    assert data.take("train")[0].dtype == torch.uint8
    batches = torch.cat([inputs for inputs, _ in data.train_dataloader()])
    assert torch.allclose(batches.mean((0, 2, 3)), torch.zeros(3), atol=1e-4)
    assert torch.allclose(batches.std((0, 2, 3), correction=0), torch.ones(3), atol=1e-4)


def test_the_data_is_held_once() -> None:
    rows = torch.randn(1000, 3)
    data = data_of(rows, torch.arange(1000) % 3, ["a", "b", "c"])
    loaders: Any = data.train_dataloader(), data.val_dataloader(), data.test_dataloader()
    assert {loader.inputs.data_ptr() for loader in loaders} == {rows.data_ptr()}
    seen = [torch.cat([inputs for inputs, _ in loader]) for loader in loaders]
    assert torch.equal(torch.cat(seen).sort(0).values, rows.sort(0).values)


def test_label_noise_replaces_a_share_of_training_labels_only() -> None:
    clean, noisy = (FromSamples(digits, **SETTINGS | {"label_noise": share}) for share in (0.0, 0.4))
    changed = (clean.take("train")[1] != noisy.take("train")[1]).float().mean().item()
    assert changed == pytest.approx(0.4, abs=0.05)
    assert noisy.class_counts == counts(noisy.take("train")[1])
    for name in ("val", "test"):
        assert torch.equal(clean.take(name)[1], noisy.take(name)[1])


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("batch_size", 0),
        ("eval_batch_size", 0),
        ("val_fraction", 1.0),
        ("val_fraction", 0.95),
        ("test_fraction", 0.0),
        ("label_noise", 2.0),
        ("label_noise", 0.1),  # there are no classes
    ],
)
def test_sizes_that_can_not_be_are_named(field: str, value: float) -> None:
    with pytest.raises(ConfigError, match=f"^{field}={value}: expected "):
        FromSamples(diabetes, **SETTINGS | {field: value})


def test_a_function_that_returns_something_else_is_named_and_arguments_reach_it() -> None:
    with pytest.raises(ConfigError, match=r"^source: expected a function that returns Samples, not Tensor$"):
        FromSamples(torch.zeros, **SETTINGS, size=(3,))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("inputs", "targets", "names"),
    [
        (torch.zeros(5, 2), torch.zeros(4).long(), ["a"]),
        (torch.zeros(5, 2), torch.arange(5), ["a", "b"]),
        (torch.zeros(2, 2), torch.tensor([-1, 1]), ["a", "b"]),
        (torch.zeros(5, 2), torch.zeros(5, 2), ["one"]),
    ],
)
def test_samples_that_do_not_fit_each_other_are_refused(
    inputs: Tensor, targets: Tensor, names: list[str]
) -> None:
    with pytest.raises(ValueError, match="inputs, targets"):
        Samples(inputs, targets, names)


def test_one_target_value_may_come_without_a_dimension_and_in_double_precision() -> None:
    samples = Samples(torch.zeros(5, 2).double(), torch.arange(5).double(), ["y"])
    assert (samples.targets.shape, samples.targets.dtype) == ((5, 1), torch.float32)
    assert samples.inputs.dtype == torch.float32  # type: ignore[union-attr]


def test_an_epochs_order_is_a_function_of_seed_and_epoch_alone() -> None:
    rows = torch.arange(100)

    def epoch(seed: int, number: int) -> list[int]:
        batches = Batches(rows, rows, Order(rows, 16, seed))
        batches.set_epoch(number)
        torch.rand(number + 1)  # the global random state has no say
        return torch.cat([targets for _, targets in batches]).tolist()

    assert epoch(0, 3) == epoch(0, 3)
    assert epoch(0, 3) != epoch(0, 4)
    assert epoch(0, 1) != epoch(1, 0)
    assert sorted(epoch(0, 3)) == rows.tolist()


def test_the_last_batch_may_be_smaller_and_none_is_lost() -> None:
    batches = Batches(torch.arange(100), torch.arange(100), Order(torch.arange(100), 16, 0))
    assert [len(targets) for _, targets in batches] == [16] * 6 + [4]
    assert len(batches) == 7


def test_processes_share_an_epoch_without_overlap_beyond_the_padding() -> None:
    rows = torch.arange(101)
    shares = [Batches(rows, rows, Order(rows, 16, 0, rank, world_size=4)) for rank in range(4)]
    seen = [torch.cat([targets for _, targets in share]).tolist() for share in shares]
    assert {len(share) for share in seen} == {26}
    assert len({len(share) for share in shares}) == 1
    assert set().union(*seen) == set(rows.tolist())
    in_order = [Batches(rows, rows, Order(rows, 16, None, rank, world_size=4)) for rank in range(4)]
    assert sorted(int(t) for share in in_order for _, targets in share for t in targets) == rows.tolist()


def test_workers_give_the_same_batches_as_one_process_from_any_batch_on() -> None:
    data, rows = Augmented(torch.arange(80.0).reshape(20, 1, 2, 2), torch.arange(20)), torch.arange(20)
    one, two = Loader(data, Order(rows, 6, seed=3)), Loader(data, Order(rows, 6, seed=3), workers=2)
    in_memory = Batches(data.inputs, data.targets, Order(rows, 6, seed=3))
    state = torch.get_rng_state()
    for loader in (one, two, in_memory):
        loader.set_epoch(4)
    whole = list(one)
    assert len(whole) == len(one) == 4
    two.start_at(2)
    in_memory.start_at(2)
    for (inputs, targets), (_, same), expected in zip(two, in_memory, whole[2:], strict=True):
        assert torch.equal(inputs, expected[0])
        assert torch.equal(targets, expected[1])
        assert torch.equal(same, expected[1])  # the order is one and the same
    assert len(list(two)) == len(list(in_memory)) == 4  # only the epoch that is resumed is shorter
    assert torch.equal(state, torch.get_rng_state())


class Watcher(LightningModule):
    """Trains a bit and keeps the inputs of each batch."""

    def __init__(self) -> None:
        super().__init__()
        self.model, self.seen = nn.Sequential(nn.Flatten(), nn.Linear(12, 2)), list[Tensor]()

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        self.seen.append(batch[0])
        return nn.functional.cross_entropy(self.model(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


@pytest.mark.filterwarnings("ignore:You passed in a .val_dataloader. but")  # what trains has no such step
@pytest.mark.parametrize("stored", [False, True])
@pytest.mark.parametrize("overfit", [0, 2])
def test_lightning_leaves_order_and_scaling_to_the_loader(stored: bool, overfit: int) -> None:
    images = torch.randint(0, 256, (64, 3, 2, 2), dtype=torch.uint8)
    inputs = Stored(images, mirrored=False) if stored else images
    data = data_of(inputs, torch.arange(64) % 2, ["a", "b"], per_channel=True, batch_size=10)
    module = Watcher()
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=2,
        overfit_batches=overfit,
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, data)
    order = Order(data.rows["train"], 10, None if overfit else 0)
    expected = []
    for epoch in range(2):
        order.set_epoch(epoch)
        expected += [rows for _, rows in order][: overfit or None]
    assert len(module.seen) == len(expected)
    for batch, rows in zip(module.seen, expected, strict=True):
        assert torch.equal(batch, data.scaling.scale(images[rows]))


def test_bundled_data_is_what_scikit_learn_loads() -> None:
    from sklearn.datasets import load_diabetes, load_digits

    images, classes = load_digits(return_X_y=True)
    bundled = digits()
    assert torch.equal(bundled.inputs, torch.tensor(images).float().reshape(-1, 1, 8, 8))  # type: ignore[arg-type]
    assert torch.equal(bundled.targets, torch.tensor(classes))
    measurements, progression = load_diabetes(return_X_y=True, scaled=False)
    patients = diabetes()
    assert torch.equal(patients.inputs, torch.tensor(measurements).float())  # type: ignore[arg-type]
    assert torch.equal(patients.targets, torch.tensor(progression).float().reshape(-1, 1))


def test_bundled_files_are_those_of_scikit_learn_byte_for_byte() -> None:
    from importlib.resources import files

    own, theirs = files("descent.data") / "bundled", files("sklearn.datasets.data")
    for name in ("digits.csv.gz", "diabetes_data_raw.csv.gz", "diabetes_target.csv.gz"):
        assert (own / name).read_bytes() == (theirs / name).read_bytes()
