"""Alters samples for an experiment: one fold is held out, or some training labels are replaced."""

import torch
from torch import Generator, Tensor

from descent.data.splits import Rows
from descent.errors import ConfigError, require


def hold_out(given: Rows, classes: Tensor | None, fold: int, folds: int, seed: int) -> Rows:
    """Return the given rows with one of the folds of "train", which spread each class evenly, as "test"."""
    rows = given["train"]
    if len(given.get("test", ())):
        raise ConfigError("fold", fold, expected="null, because the data has its own test split")
    expected = f"a whole number from 2 to {len(rows):,}, the number of samples"
    require(2 <= folds <= len(rows), "folds", folds, expected)
    require(0 <= fold < folds, "fold", fold, f"a whole number from 0 to {folds - 1}")
    order = rows[torch.randperm(len(rows), generator=Generator().manual_seed(seed))]
    if classes is not None:
        order = order[classes[order].argsort(stable=True)]
    held = torch.arange(len(order)) % folds == fold
    return {**given, "train": order[~held], "test": order[held]}


def replace_labels(targets: Tensor, rows: Tensor, share: float, classes: int, generator: Generator) -> Tensor:
    """Return class indices with symmetric noise in a share of some rows (Ghosh, Kumar & Sastry, 2017)."""
    chosen = torch.rand(len(rows), generator=generator) < share
    shift = torch.randint(1, classes, (len(rows),), generator=generator)
    right, targets = targets[rows], targets.clone()
    targets[rows] = torch.where(chosen, (right + shift) % classes, right)
    return targets
