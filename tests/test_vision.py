"""Image data sets of torchvision, from files in their own format; without torchvision, one line."""

import importlib.util
import struct
from pathlib import Path

import pytest
import torch
from conftest import Run
from torch import Tensor

installed = importlib.util.find_spec("torchvision") is not None


def write_idx(path: Path, values: Tensor) -> None:
    """The format of MNIST's files: http://yann.lecun.com/exdb/mnist, bytes after their shape."""
    header = struct.pack(f">HBB{values.dim()}I", 0, 8, values.dim(), *values.shape)
    path.write_bytes(header + values.numpy().tobytes())


@pytest.mark.skipif(installed, reason="torchvision is installed")
def test_without_torchvision_the_line_says_how_to_install_it(run: Run) -> None:
    finished = run("data=mnist")
    assert finished.code == 2
    assert finished.err.startswith(
        "data.name=MNIST: expected a torchvision that matches torch; `uv sync --extra"
    )
    assert finished.err.count("\n") == 1


@pytest.mark.skipif(not installed, reason="torchvision is not installed")
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


@pytest.mark.skipif(not installed, reason="torchvision is not installed")
def test_files_that_are_not_there_are_one_line(run: Run, tmp_path: Path) -> None:
    finished = run("data=cifar10", f"data.folder={tmp_path}/data", "data.download=false")
    assert finished.code == 2
    assert finished.err.count("\n") == 1
    assert f"data.folder={tmp_path}/data: expected the files of CIFAR10" in finished.err
