"""Splits, folds, scaling, batches, torchvision's sets: what reaches the model."""

import importlib.util
import struct
from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from augmented import shake
from conftest import Run
from lightning.pytorch.callbacks import LambdaCallback
from small import data_of, supervised, take, tensors, trainer
from torch import Tensor, nn

from descent.data import torchvision_sets
from descent.data.arrays import arrays
from descent.data.batches import Batches, Order
from descent.data.diabetes import diabetes
from descent.data.digits import digits
from descent.data.samples import Samples
from descent.data.scaling import Scaling, find_moments
from descent.data.stored import Loader
from descent.errors import ConfigError
from descent.task import Values

AB = ["a", "b"]


def test_splits_cover_the_data_once_share_out_classes_evenly_and_are_a_function_of_the_seed() -> None:
    data, again, other = (
        tensors(torch.randn(1000, 1), torch.arange(1000) % 3, "abc", seed=seed, val_fraction=0.2)
        for seed in (0, 0, 1)
    )
    assert [len(rows) for rows in data.rows.values()] == [700, 200, 100]
    assert torch.cat(list(data.rows.values())).sort().values.tolist() == list(range(1000))
    assert all(torch.equal(data.rows[name], again.rows[name]) for name in data.rows)
    assert not torch.equal(data.rows["val"], other.rows["val"])
    for share, name in ((0.7, "train"), (0.2, "val"), (0.1, "test")):
        assert all((take(data, name)[1].bincount() - share * data.targets.bincount()).abs() <= 1.5)


def test_given_splits_stay_as_they_are_and_missing_ones_are_drawn_from_the_training_rows() -> None:
    rows = {"train": torch.arange(80), "test": torch.arange(90, 100)}  # 80 to 89 are left out
    data = tensors(torch.randn(100, 2), torch.arange(100) % 2, AB, rows=rows, test_fraction=None)
    assert torch.equal(data.rows["test"], rows["test"])
    assert torch.equal(torch.cat([data.rows["train"], data.rows["val"]]).sort().values, rows["train"])
    assert len(data.rows["val"]) == 8
    with pytest.raises(ConfigError, match=r"^fold=0: .* its own test split"):
        tensors(torch.randn(100, 2), torch.arange(100) % 2, AB, rows=rows, fold=0)


@pytest.mark.parametrize("source", [digits, diabetes])
def test_over_all_folds_every_sample_is_held_out_once_and_nothing_fitted_has_seen_it(source: Any) -> None:
    data = [data_of(source, fold=number) for number in range(5)]
    everything = list(range(len(source().targets)))
    for parts in ([one.rows["test"] for one in data], *(one.rows.values() for one in data)):
        assert torch.cat([*parts]).sort().values.tolist() == everything
    if source is digits:  # the classes are spread evenly
        counts = torch.stack([one.targets[one.rows["test"]].bincount() for one in data])
        assert all(counts.amax(0) - counts.amin(0) <= 1)
        assert counts.sum(1).max() - counts.sum(1).min() <= 1
    assert not torch.equal(data[0].rows["test"], data_of(source, fold=0, seed=1).rows["test"])
    changed = source()
    changed.inputs[data[2].rows["test"]] += 1000
    assert torch.equal(data_of(lambda: changed, fold=2).scaling.mean, data[2].scaling.mean)


def test_label_noise_replaces_a_share_of_training_labels_only() -> None:
    clean, noisy = (data_of(label_noise=share) for share in (0.0, 0.4))
    changed = (clean.targets != noisy.targets).nonzero().flatten()
    assert set(changed.tolist()) <= set(clean.rows["train"].tolist())
    assert len(changed) / len(clean.rows["train"]) == pytest.approx(0.4, abs=0.05)
    assert noisy.class_counts == take(noisy, "train")[1].bincount().tolist()


WRONG = "batch_size=0 eval_batch_size=0 val_fraction=1.0 val_fraction=0.95 test_fraction=0.0 label_noise=2.0"
WRONG += " label_noise=0.1 task=classes task=labels fold=5 fold=-1"  # values have no classes


@pytest.mark.parametrize("setting", WRONG.split())
def test_settings_that_can_not_be_are_named(setting: str) -> None:
    field, value = setting.split("=")
    with pytest.raises(ConfigError, match=f"^{setting}: expected "):
        data_of(diabetes, **{field: yaml.safe_load(value)})
    with pytest.raises(ConfigError, match=r"^folds=1: expected "):
        data_of(fold=0, folds=1)


def test_samples_that_do_not_fit_each_other_and_what_is_no_samples_are_refused() -> None:
    many, pairs = torch.zeros(5, 2), torch.zeros(2, 2)
    for inputs, targets, names in (
        (many, torch.zeros(4).long(), ["a"]),
        (many, torch.arange(5), AB),
        (pairs, torch.tensor([-1, 1]), AB),
        (many, many, ["one"]),
    ):
        with pytest.raises(ValueError, match="inputs, targets"):
            Samples(inputs, targets, names)
    with pytest.raises(ConfigError, match=r"^source: expected a function that returns Samples, not list$"):
        data_of(lambda: [])  # type: ignore[arg-type, return-value]


def test_answers_of_0_and_1_in_several_columns_are_asked_about_and_never_standardised_in_silence() -> None:
    answers = torch.randint(2, (50, 3)).float()
    with pytest.raises(ConfigError, match=r"^task=auto: expected labels or values, because"):
        tensors(torch.randn(50, 2), answers, "abc")
    labels, values = (tensors(torch.randn(50, 2), answers, "abc", task=kind) for kind in ("labels", "values"))
    assert (labels.task.kind, values.task.kind) == ("labels", "values")
    assert labels.task.sizes() == {"num_labels": 3}
    assert torch.equal(labels.targets, answers)


def test_bundled_data_is_that_of_scikit_learn() -> None:
    from sklearn.datasets import load_diabetes, load_digits

    for ours, theirs in ((digits(), load_digits()), (diabetes(), load_diabetes(scaled=False))):
        assert np.allclose(ours.inputs.flatten(1), theirs.data)
        assert np.array_equal(ours.targets.flatten(), theirs.target)  # type: ignore[arg-type]


torch.manual_seed(0)
COLUMNS = {
    "farads": 1e-12 * torch.rand(1000, dtype=torch.float64),
    "positions within one field": 52.1234567 + 1e-6 * torch.rand(1000, dtype=torch.float64),
    "unix seconds": (1_700_000_000 + torch.arange(1000) % 10).long(),
    "64-bit ids": (10**15 + 3 * torch.arange(1000)).long(),
    "bytes": torch.randint(256, (1000,), dtype=torch.uint8),
    "values near float32's largest": 1e38 * torch.rand(1000),
}


@pytest.mark.parametrize("name", COLUMNS)
def test_small_units_and_differences_of_large_numbers_are_scaled_as_numpy_does_in_float64(name: str) -> None:
    column = COLUMNS[name]
    exact = column.numpy().astype(np.longdouble)
    mean, std = find_moments(column[:, None], torch.randperm(1000))
    assert mean.item() == pytest.approx(float(exact.mean()), rel=1e-15)
    assert std.item() == pytest.approx(float(exact.std()), rel=1e-9)
    scaled = Scaling(mean, std)(column[:, None])
    assert scaled.dtype == torch.float32
    assert np.allclose(scaled[:, 0], ((exact - exact.mean()) / exact.std()).astype(np.float32), atol=1e-5)
    assert scaled.unique().numel() == column.unique().numel()  # no two values become one
    mean, std = find_moments(column[:1, None].repeat(1001, 1), torch.randperm(1001))
    assert (std.item(), Scaling(mean, std)(column[:1, None]).item()) == (1.0, 0.0)  # of a constant


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_scaling_and_units_stay_float64_in_a_module_of_any_precision(dtype: torch.dtype) -> None:
    mean = torch.tensor([1.7e9 + 0.5], dtype=torch.float64)
    scaling: Any = Scaling(mean, torch.tensor([0.1]), nn.BatchNorm1d(1).eval())
    linear, units = nn.Linear(2, 2), Values(["t"], mean)
    nn.ModuleList([linear, scaling, units]).to(dtype)
    assert linear.weight.dtype == dtype
    assert all(buffer.dtype == torch.float64 for buffer in (scaling.mean, scaling.std, units.mean))
    assert scaling.mean.item() == 1.7e9 + 0.5
    assert scaling.encoder.running_mean.dtype == torch.float32


def test_inputs_are_scaled_once_and_targets_standardised_with_the_training_split_alone() -> None:
    rows = torch.randn(500, 3) * torch.tensor([1.0, 10.0, 0.0]) + torch.tensor([0.0, 5.0, 2.0])
    raw, values = rows.clone(), 1e9 + torch.randn(500, 1, dtype=torch.float64)
    data = tensors(rows, values, ["y"])
    train, targets = take(data, "train")
    assert torch.allclose(train.mean(0), torch.zeros(3), atol=1e-5)
    assert torch.allclose(train.std(0, correction=0), torch.tensor([1.0, 1.0, 0.0]), atol=1e-5)  # a constant
    assert torch.equal(take(data, "val")[0], data.scaling(raw[data.rows["val"]]))
    assert (targets.mean().abs() < 1e-5, targets.dtype) == (True, torch.float32)
    assert torch.allclose(data.task.predict(data.targets), values, rtol=0, atol=1e-6)
    loaders = data.train_dataloader(), data.val_dataloader(), data.test_dataloader()
    assert {loader.inputs.data_ptr() for loader in loaders} == {rows.data_ptr()}  # the data is held once


def test_an_epochs_order_is_a_function_of_seed_and_epoch_alone_and_processes_share_it() -> None:
    def draw(n: int = 100, seed: int | None = 0, epoch: int = 3, **settings: Any) -> list[list[int]]:
        rows = torch.arange(n)
        batches = Batches(rows, rows, Order(rows, 16, seed, epoch=epoch, **settings))
        torch.rand(epoch + 1)  # the global random state has no say
        found = [targets.tolist() for _, targets in batches]
        assert len(batches) == len(found)
        return found

    assert draw() == draw() != draw(epoch=4)
    assert draw(epoch=1) != draw(seed=1, epoch=0)
    assert sorted(chain(*draw())) == list(range(100))
    assert [len(batch) for batch in draw()] == [16] * 6 + [4]
    assert [len(batch) for batch in draw(drop_last=True)] == [16] * 6
    # drawn orders are filled up, so that all are equally long and no process waits for another
    for seed, total, apart in ((0, 104, 0), (None, 101, 1)):
        shares = [[*chain(*draw(101, seed, rank=rank, world_size=4))] for rank in range(4)]
        assert max(map(len, shares)) - min(map(len, shares)) == apart
        assert len([*chain(*shares)]) == total
        assert {*chain(*shares)} == {*range(101)}


def test_workers_give_the_same_batches_as_one_process_from_any_batch_on() -> None:
    inputs, targets, state = torch.arange(80.0).reshape(20, 1, 2, 2), torch.arange(20), torch.get_rng_state()
    first, second, third = (Order(targets, 6, seed=3, epoch=4) for _ in range(3))
    one, two = (Loader(inputs, targets, o, augment=shake, workers=n) for o, n in ((first, 0), (second, 2)))
    in_memory, whole = Batches(inputs, targets, third), list(one)
    assert len(whole) == len(one) == 4
    two.start_at(2)
    in_memory.start_at(2)
    for ours, (_, same), expected in zip(two, in_memory, whole[2:], strict=True):
        assert all(torch.equal(*pair) for pair in zip(ours, expected, strict=True))
        assert torch.equal(same, expected[1])  # the order is one and the same
    assert len(list(two)) == len(list(in_memory)) == 4  # only the epoch that is resumed is shorter
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("overfit", [0, 2])
def test_lightning_leaves_order_and_scaling_to_the_loader(overfit: int) -> None:
    images, seen = torch.randint(0, 256, (64, 3, 2, 2), dtype=torch.uint8), list[Tensor]()
    data = tensors(images, torch.arange(64) % 2, AB, per_channel=True, batch_size=10)
    see = LambdaCallback(on_train_batch_start=lambda trainer, module, batch, _: seen.append(batch[0]))
    fitted = trainer(max_epochs=2, overfit_batches=overfit, limit_val_batches=0, callbacks=[see])
    fitted.fit(supervised(data), datamodule=data)
    orders = [Order(data.rows["train"], 10, None if overfit else 0, epoch=epoch) for epoch in range(2)]
    expected = [rows for order in orders for _, rows in list(order)[: overfit or None]]
    for batch, rows in zip(seen, expected, strict=True):
        assert torch.equal(batch, data.scaling(images[rows]))
    train = data.scaling(images[data.rows["train"]])
    assert data.inputs.dtype == torch.uint8
    assert torch.allclose(train.mean((0, 2, 3)), torch.zeros(3), atol=1e-4)  # by channel
    assert torch.allclose(train.std((0, 2, 3), correction=0), torch.ones(3), atol=1e-4)


@pytest.mark.parametrize("dtype", ["float64", "float32", "int32", "uint8"])
def test_a_mapped_array_gives_the_batches_of_one_in_memory_bit_for_bit(
    tmp_path: Path, monkeypatch: Any, dtype: str
) -> None:
    x, y = tmp_path / "x.npy", tmp_path / "y.npy"
    np.save(x, (5 + 10 * np.random.default_rng(0).random((2000, 7))).astype(dtype))
    np.save(y, np.arange(2000) % 2)
    before = x.read_bytes()
    in_memory = data_of(arrays, inputs=str(x), targets=str(y))
    monkeypatch.setattr("descent.data.arrays.MAPPED", 0)
    mapped = data_of(arrays, inputs=str(x), targets=str(y))
    assert mapped.inputs[torch.arange(1)].dtype == getattr(torch, dtype)
    loaders = mapped.train_dataloader(), in_memory.train_dataloader()
    for loader in loaders:
        loader.start_at(3)
    for ours, theirs in zip(*loaders, strict=True):
        assert all(torch.equal(*pair) for pair in zip(ours, theirs, strict=True))
    assert x.read_bytes() == before


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's account of resident pages")
def test_a_mapped_array_is_read_with_a_small_share_of_it_resident(tmp_path: Path) -> None:
    x = np.lib.format.open_memmap(tmp_path / "x.npy", "w+", "float32", (40_000, 2000))  # 320 MB of zeros
    x[:, 0] = np.arange(40_000) % 2
    np.save(tmp_path / "y.npy", x[:, 0].astype(np.int64))
    del x

    def resident() -> int:
        return 4096 * int(Path("/proc/self/statm").read_text().split()[1])

    before = resident()
    data = data_of(arrays, inputs=str(tmp_path / "x.npy"), targets=str(tmp_path / "y.npy"))
    assert max(resident() for _ in data.train_dataloader()) - before < 100 << 20


def test_the_official_test_split_of_torchvision_is_the_test_data(monkeypatch: Any, tmp_path: Path) -> None:
    def photos(root: str, train: bool, download: bool) -> SimpleNamespace:  # as CIFAR10: channels last
        data = np.full((40 if train else 10, 4, 4, 3), 100 if train else 200, dtype=np.uint8)
        return SimpleNamespace(data=data, targets=[i % 2 for i in range(len(data))], classes=AB)

    stand_in = SimpleNamespace(datasets=SimpleNamespace(Photos=photos))
    monkeypatch.setattr(torchvision_sets, "import_torchvision", lambda key, value: stand_in)
    settings = {"name": "Photos", "folder": str(tmp_path), "download": False, "test_fraction": None}
    data = data_of(torchvision_sets.torchvision_set, **settings)
    assert [len(rows) for rows in data.rows.values()] == [36, 4, 10]
    assert take(data, "test")[0].unique().tolist() == [200]
    assert data.scaling.mean.flatten().tolist() == [100, 100, 100]


def test_mnist_trains_on_its_files_or_a_line_says_what_it_needs(run: Run, tmp_path: Path) -> None:
    words = ["data=mnist", f"data.folder={tmp_path}/data", "data.download=false", "data.batch_size=30"]
    finished = run(*words)
    assert (finished.code, finished.err.count("\n")) == (2, 1)
    if importlib.util.find_spec("torchvision") is None:
        line = "data.name=MNIST: expected a torchvision that matches torch; `uv sync --extra images`"
        assert finished.err.startswith(line)
        return
    assert f"data.folder={tmp_path}/data: expected the files of MNIST" in finished.err
    raw = tmp_path / "data/MNIST/raw"
    raw.mkdir(parents=True)
    for name, n in (("train", 300), ("t10k", 50)):
        classes = torch.arange(n, dtype=torch.uint8) % 10
        pixels = torch.zeros(n, 28, 28, dtype=torch.uint8)
        pixels[range(n), 2 * classes.long() + 4] = 255  # a row for each digit, to be told apart
        for kind, values in (("images-idx3", pixels), ("labels-idx1", classes)):  # yann.lecun.com/exdb/mnist
            header = struct.pack(f">HBB{values.dim()}I", 0, 8, values.dim(), *values.shape)
            (raw / f"{name}-{kind}-ubyte").write_bytes(header + values.numpy().tobytes())
    finished = run(*words, "trainer.max_epochs=5")
    assert finished.code == 0, finished.err
    assert "270 train, 30 val, 50 test samples" in finished.out
    assert "Test Acc: 1.0000" in finished.out
