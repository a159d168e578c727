"""Image data sets of torchvision, from files in their own format; without torchvision, one line."""

import importlib.util
import struct
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Run
from small import take

from descent.data import torchvision_sets
from descent.data.samples import FromSamples

HAS_TORCHVISION = importlib.util.find_spec("torchvision") is not None


class Photos:
    """What torchvision's CIFAR10 is to us: colour bytes, channels last, and classes as a list."""

    classes = ("cat", "dog")

    def __init__(self, root: str, train: bool, download: bool) -> None:
        self.data = np.full((40 if train else 10, 4, 4, 3), 100 if train else 200, dtype=np.uint8)
        self.targets = [i % 2 for i in range(len(self.data))]


def test_the_official_test_split_is_the_test_data(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    stand_in: Any = lambda key, value: SimpleNamespace(datasets=SimpleNamespace(Photos=Photos))  # noqa: E731
    monkeypatch.setattr(torchvision_sets, "import_torchvision", stand_in)
    data = FromSamples(
        torchvision_sets.torchvision_set, 8, 8, val_fraction=0.2, test_fraction=None, seed=0, label_noise=0.0,
        fold=None, folds=5, name="Photos", folder=str(tmp_path), download=False,
    )  # fmt: skip
    assert [len(rows) for rows in data.rows.values()] == [32, 8, 10]
    assert take(data, "test")[0].unique().tolist() == [200]
    assert data.scaling.mean.flatten().tolist() == [100, 100, 100]


@pytest.mark.skipif(HAS_TORCHVISION, reason="torchvision is installed")
def test_without_torchvision_the_line_says_how_to_install_it(run: Run) -> None:
    line = "expected a torchvision that matches torch; `uv sync --extra"
    for key, words in (("name=MNIST", ["data=mnist"]), ("augment=light", ["data=images", "data.path=."])):
        finished = run(*words, f"data.{key}")
        assert (finished.code, finished.err.count("\n")) == (2, 1)
        assert finished.err.startswith(f"data.{key}: {line}")


@pytest.mark.skipif(not HAS_TORCHVISION, reason="torchvision is not installed")
def test_mnist_trains_on_its_files_with_its_official_test_split(run: Run, tmp_path: Path) -> None:
    words = ["data=mnist", f"data.folder={tmp_path}/data", "data.download=false", "data.batch_size=30"]
    assert f"data.folder={tmp_path}/data: expected the files of MNIST" in run(*words).err
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
