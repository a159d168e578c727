"""MNIST, Fashion-MNIST, CIFAR-10 and the like: torchvision downloads them once, to a shared folder."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from descent.data.samples import Samples
from descent.errors import ConfigError, first_line, require


def torchvision_set(name: str, folder: str, download: bool) -> Samples:
    """Return what a class of `torchvision.datasets` has, such as "MNIST", as bytes, with its test split."""
    from filelock import FileLock  # comes with torch

    constructor: Any = getattr(import_torchvision("name", name).datasets, name, None)
    require(constructor is not None, "name", name, "a class of torchvision.datasets, such as MNIST")
    path = Path(folder).expanduser().resolve()
    try:
        if download:  # otherwise nothing is written
            path.mkdir(parents=True, exist_ok=True)
        with FileLock(path / f".{name}.lock") if download else nullcontext():  # two runs download once
            train = constructor(str(path), train=True, download=download)
            test = constructor(str(path), train=False, download=download)
    except (OSError, RuntimeError) as error:  # URLError is an OSError; RuntimeError: corrupt or not found
        connection = f"a network connection to download them ({first_line(error)})"
        expected = f"the files of {name} in {path}, or {connection}"
        raise ConfigError("folder", folder, expected=expected) from error
    parts = to_tensors(train), to_tensors(test)
    inputs, targets = (torch.cat(pair) for pair in zip(*parts, strict=True))
    of_train, of_test = torch.arange(len(targets)).split([len(part[1]) for part in parts])
    rows = {"train": of_train, "test": of_test}
    return Samples(inputs, targets, [str(label) for label in train.classes], rows, per_channel=True)


def to_tensors(dataset: Any) -> tuple[Tensor, Tensor]:
    """Return images as uint8 `(n, channels, height, width)` and classes as int64 `(n,)`."""
    images = torch.as_tensor(dataset.data)
    images = images.unsqueeze(1) if images.dim() == 3 else images.permute(0, 3, 1, 2).contiguous()
    return images, torch.as_tensor(dataset.targets, dtype=torch.int64)


def import_torchvision(key: str, value: str) -> Any:
    """Return torchvision, or raise a `ConfigError` for the key and value that need it."""
    try:
        import torchvision.datasets
        import torchvision.transforms.v2
    except (ImportError, RuntimeError) as error:  # RuntimeError: built against another torch
        install = f"`uv sync --extra images` or `pip install -e '.[images]'` ({first_line(error)})"
        raise ConfigError(key, value, expected=f"a torchvision that matches torch; {install}") from error
    return torchvision
