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
from omegaconf import OmegaConf
from torch import Tensor

from descent.cli.build import builder
from descent.cli.paths import CONF
from descent.cli.resuming import stay_offline
from descent.data import torchvision_sets
from descent.data.samples import FromSamples
from descent.run.trust import build

HAS_TORCHVISION = importlib.util.find_spec("torchvision") is not None


def write_idx(path: Path, values: Tensor) -> None:
    """The format of MNIST's files: http://yann.lecun.com/exdb/mnist, bytes after their shape."""
    header = struct.pack(f">HBB{values.dim()}I", 0, 8, values.dim(), *values.shape)
    path.write_bytes(header + values.numpy().tobytes())


class Photos:
    """What torchvision's CIFAR10 is to us: colour bytes, channels last, and classes as a list."""

    classes = ("cat", "dog")

    def __init__(self, root: str, train: bool, download: bool) -> None:
        self.data = np.full((40 if train else 10, 4, 4, 3), 100 if train else 200, dtype=np.uint8)
        self.targets = [i % 2 for i in range(len(self.data))]


def test_the_official_test_split_is_the_test_data(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    stand_in: Any = lambda key, value: SimpleNamespace(datasets=SimpleNamespace(Photos=Photos))  # noqa: E731
    monkeypatch.setattr(torchvision_sets, "import_torchvision", stand_in)
    settings = {"batch_size": 8, "eval_batch_size": 8, "val_fraction": 0.25, "test_fraction": None, "seed": 0}
    settings |= {"label_noise": 0.0, "fold": None, "folds": 5}
    words = {"name": "Photos", "folder": str(tmp_path), "download": False}
    data = FromSamples(torchvision_sets.torchvision_set, **settings, **words)  # type: ignore[arg-type]
    assert str(data) == "30 train, 10 val, 10 test samples of shape (3, 4, 4), 2 classes"
    assert data.take("test")[0].unique().tolist() == [200]
    assert data.scaling.input_mean.flatten().tolist() == [100, 100, 100]
    assert data.class_counts == [15, 15]


def test_a_run_handed_over_downloads_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[bool] = []

    class Asked(Photos):
        def __init__(self, root: str, train: bool, download: bool) -> None:
            super().__init__(root, train, download)
            asked.append(download)

    stand_in: Any = lambda key, value: SimpleNamespace(datasets=SimpleNamespace(Asked=Asked))  # noqa: E731
    monkeypatch.setattr(torchvision_sets, "import_torchvision", stand_in)
    node = OmegaConf.to_container(OmegaConf.load(CONF / "data/mnist.yaml"))
    assert isinstance(node, dict)
    node |= {"name": "Asked", "folder": f"{tmp_path}/x", "seed": 0, "fold": None, "folds": 5}
    del node["download"]
    inside = {**node, "source": {**node["source"], "download": True}}
    for data in (node | {"download": True}, inside):
        build("data", data)
        config = OmegaConf.create({"data": data})
        stay_offline(config, [])
        builder(config)("data")
        assert not any(asked)
    assert not (tmp_path / "x").exists()
    config = OmegaConf.create({"data": {**node, "download": True}})
    stay_offline(config, ["data.download"])
    builder(config)("data")
    assert any(asked)


@pytest.mark.skipif(HAS_TORCHVISION, reason="torchvision is installed")
def test_without_torchvision_the_line_says_how_to_install_it(run: Run) -> None:
    finished = run("data=mnist")
    assert finished.code == 2
    assert finished.err.startswith(
        "data.name=MNIST: expected a torchvision that matches torch; `uv sync --extra"
    )
    assert finished.err.count("\n") == 1


@pytest.mark.skipif(not HAS_TORCHVISION, reason="torchvision is not installed")
def test_mnist_trains_on_its_files_with_its_official_test_split(run: Run, tmp_path: Path) -> None:
    raw = tmp_path / "data/MNIST/raw"
    raw.mkdir(parents=True)
    for name, n in (("train", 300), ("t10k", 50)):
        classes = torch.arange(n, dtype=torch.uint8) % 10
        images = torch.zeros(n, 28, 28, dtype=torch.uint8)
        for image, digit in zip(images, classes, strict=True):
            image[2 * int(digit) + 4] = 255  # a row each, to be told apart
        write_idx(raw / f"{name}-images-idx3-ubyte", images)
        write_idx(raw / f"{name}-labels-idx1-ubyte", classes)
    words = [
        f"data.folder={tmp_path}/data",
        "data.download=false",
        "data.batch_size=30",
        "trainer.max_epochs=5",
    ]
    finished = run("data=mnist", *words)
    assert finished.code == 0, finished.err
    assert "270 train, 30 val, 50 test samples of shape (1, 28, 28), 10 classes" in finished.out
    assert "Test Acc: 1.0000" in finished.out


@pytest.mark.skipif(not HAS_TORCHVISION, reason="torchvision is not installed")
def test_files_that_are_not_there_are_one_line(run: Run, tmp_path: Path) -> None:
    finished = run("data=cifar10", f"data.folder={tmp_path}/data", "data.download=false")
    assert finished.code == 2
    assert finished.err.count("\n") == 1
    assert f"data.folder={tmp_path}/data: expected the files of CIFAR10" in finished.err
