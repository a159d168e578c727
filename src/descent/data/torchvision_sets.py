"""MNIST, Fashion-MNIST, CIFAR-10 and the like: torchvision downloads them once, to a shared folder."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from descent.data.samples import Samples
from descent.errors import ConfigError, first_line, require


def torchvision_set(name: str, folder: str, download: bool) -> Samples:
    """Return the bytes `(n, channels, height, width)` of a class of `torchvision.datasets`, such as MNIST."""
    from filelock import FileLock  # comes with torch

    constructor: Any = getattr(import_torchvision("name", name).datasets, name, None)
    require(constructor is not None, "name", name, "a class of torchvision.datasets, such as MNIST")
    path = Path(folder).expanduser().resolve()
    try:
        if download:  # otherwise nothing is written
            path.mkdir(parents=True, exist_ok=True)
        with FileLock(path / f".{name}.lock") if download else nullcontext():  # two runs download once
            parts = [constructor(str(path), train=train, download=download) for train in (True, False)]
    except (OSError, RuntimeError) as error:  # URLError is an OSError; RuntimeError: corrupt or not found
        connection = f"a network connection to download them ({first_line(error)})"
        expected = f"the files of {name} in {path}, or {connection}"
        raise ConfigError("folder", folder, expected=expected) from error
    images, targets = (
        torch.cat([torch.as_tensor(getattr(p, n)) for p in parts]) for n in ("data", "targets")
    )
    images = images.unsqueeze(1) if images.dim() == 3 else images.permute(0, 3, 1, 2).contiguous()
    count = len(parts[0].targets)
    rows = {"train": torch.arange(count), "test": torch.arange(count, len(targets))}
    return Samples(images, targets, [str(label) for label in parts[0].classes], rows, per_channel=True)


def import_torchvision(key: str, value: str) -> Any:
    """Return torchvision, or raise a `ConfigError` for the key and value that need it."""
    try:
        import torchvision.datasets
        import torchvision.transforms.v2
    except (ImportError, RuntimeError) as error:  # RuntimeError: built against another torch
        install = f"`uv sync --extra images` or `pip install -e '.[images]'` ({first_line(error)})"
        raise ConfigError(key, value, expected=f"a torchvision that matches torch; {install}") from error
    return torchvision
