"""MNIST, Fashion-MNIST and CIFAR-10, by torchvision: downloaded once, to a folder outside logs."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from descent.data.memory import InMemory
from descent.errors import ConfigError


def torchvision_set(
    name: str,
    folder: str,
    download: bool,
    batch_size: int,
    eval_batch_size: int,
    val_fraction: float,
    seed: int,
    label_noise: float,
) -> InMemory:
    """An image data set of torchvision, as bytes in memory; its official test split is the test data.

    Args:
        name: the class in `torchvision.datasets`: "MNIST", "FashionMNIST" or "CIFAR10". Any other whose
            constructor takes `(root, train, download)` and that has `data`, `targets` and `classes` works.
        folder: where the files are, or go to; the processes and runs of a machine share it.
        download: fetch the files when they are not there.
        batch_size, eval_batch_size, val_fraction, seed, label_noise: those of `InMemory`.

    Raises:
        ConfigError: torchvision is missing or does not match torch, or the files can not be had.
    """
    try:
        from torchvision import datasets
    except (ImportError, RuntimeError) as error:  # RuntimeError: built against another torch
        raise ConfigError(
            f"name={name}: expected a torchvision that matches torch; `uv sync --extra images` or"
            f" `pip install -e '.[images]'` ({str(error).splitlines()[0]})"
        ) from error
    constructor: Callable[..., Any] | None = getattr(datasets, name, None)
    if constructor is None:
        raise ConfigError(f"name={name}: expected a class of torchvision.datasets, such as MNIST")
    path = Path(folder).expanduser().resolve()
    from filelock import FileLock  # comes with torch

    try:
        path.mkdir(parents=True, exist_ok=True)
        with FileLock(path / f".{name}.lock"):  # two runs started together download once
            train = constructor(str(path), train=True, download=download)
            test = constructor(str(path), train=False, download=download)
    except (OSError, RuntimeError) as error:  # URLError is an OSError; RuntimeError: corrupt or not found
        raise ConfigError(
            f"folder={folder}: expected the files of {name} in {path}, or a network connection to download"
            f" them ({str(error).splitlines()[0]})"
        ) from error
    inputs, targets = tensors(train)
    return InMemory(
        inputs,
        targets,
        [str(label) for label in train.classes],
        batch_size=batch_size,
        eval_batch_size=eval_batch_size,
        val_fraction=val_fraction,
        test_fraction=None,
        seed=seed,
        label_noise=label_noise,
        per_channel=True,
        test=tensors(test),
    )


def tensors(dataset: Any) -> tuple[Tensor, Tensor]:
    """Images as uint8 `(n, channels, height, width)` and classes as int64 `(n,)`."""
    images = torch.as_tensor(dataset.data)
    images = images.unsqueeze(1) if images.dim() == 3 else images.permute(0, 3, 1, 2).contiguous()
    return images, torch.as_tensor(dataset.targets, dtype=torch.int64)
