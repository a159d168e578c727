"""Small data, modules and trainers, as the unit tests need them."""

import csv
import json
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn

from descent.data.digits import digits
from descent.data.samples import FromSamples, Samples
from descent.metrics import Accuracy
from descent.models import MLP
from descent.module import Supervised
from descent.notebook import Trained, compose, train

SETTINGS: dict[str, Any] = {"batch_size": 64, "eval_batch_size": 512, "seed": 0, "label_noise": 0.0}
SETTINGS |= {"val_fraction": 0.1, "test_fraction": 0.1}


def data_of(source: Callable[..., Samples] = digits, **settings: Any) -> FromSamples:
    return FromSamples(source, **{**SETTINGS, **settings})


def tensors(inputs: Any, targets: Tensor, names: Iterable[str], **settings: Any) -> FromSamples:
    """Return data of tensors; settings of `Samples` and of `FromSamples`."""
    own = {n: settings.pop(n) for n in ("rows", "per_channel", "encoder") if n in settings}
    return data_of(lambda: Samples(inputs, targets, list(names), **own), **settings)


def take(data: Any, split: str) -> tuple[Tensor, Tensor]:
    """Return a split's inputs, as they are stored, and its targets, in a fixed order."""
    rows = data.rows[split]
    return data.inputs[rows], data.targets[rows]


def supervised(
    data: FromSamples,
    model: nn.Module | None = None,
    criterion: nn.Module | None = None,
    optimizer: Any = None,
    kind: type[Supervised] = Supervised,
    **more: Any,
) -> Supervised:
    """Return a module of these parts; what is left out is a small MLP with cross entropy and SGD."""
    model = model or MLP(**data.sizes, hidden=[16], dropout=0.0)
    optimizer = optimizer or partial(torch.optim.SGD, lr=0.1)
    more = {"metrics": {"acc": Accuracy()}, "task": data.task, "scaling": data.scaling, **more}
    return kind(model, criterion or nn.CrossEntropyLoss(), optimizer, **more)


def trainer(kind: Any = Trainer, **settings: Any) -> Trainer:
    """Return a quiet Trainer for one epoch on the CPU."""
    quiet = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
    return kind(**{"accelerator": "cpu", "max_epochs": 1, **dict.fromkeys(quiet, False), **settings})


def train_here(folder: Path, *words: str) -> Trained:
    """Train in this process as `python src/train.py` does with these words."""
    return train(compose(*words, "logger=none", f"folder={folder}"))


def last_weights(folder: Path, name: str = "last") -> dict[str, Tensor]:
    """Return the weights of a run's checkpoint."""
    return torch.load(folder / f"checkpoints/{name}.ckpt", weights_only=True)["state_dict"]


def rows_of(folder: Path) -> list[dict[str, str]]:
    """Return the rows of a run's metrics.csv."""
    return list(csv.DictReader((folder / "metrics.csv").read_text().splitlines()))


def result_of(folder: Path) -> Any:
    """Return what a run's result.json contains; NaN is not JSON."""

    def refuse(name: str) -> float:
        raise ValueError(f"{name} is not JSON")

    return json.loads((folder / "result.json").read_text(), parse_constant=refuse)
