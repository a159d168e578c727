"""Decides which samples are for training, validation and test: as given, or drawn by a seed."""

from collections.abc import Mapping

import torch
from torch import Generator, Tensor

from descent.errors import ConfigError, require

Rows = Mapping[str, Tensor]  # of each split, int64


def draw_splits(
    given: Rows, classes: Tensor | None, fractions: Mapping[str, float | None], generator: Generator
) -> dict[str, Tensor]:
    """Return the rows of "train", "val" and "test", drawn at random and evenly over the classes of all rows.

    If "val" or "test" is missing or empty, a fraction of "train" takes its place.
    """
    rows = {"val": torch.arange(0), "test": torch.arange(0), **given}
    n = len(rows["train"])  # the fractions refer to this number
    rest = rows["train"][torch.randperm(n, generator=generator)]
    for name, fraction in fractions.items():
        if len(rows[name]) == 0:
            key = f"{name}_fraction"
            if fraction is None or not 0 < fraction < 1:
                raise ConfigError(key, fraction, expected="a number between 0 and 1")
            size = round(n * fraction)
            some_left = f"a share of {n:,} samples that leaves some on each side"
            require(1 <= size < len(rest), key, fraction, some_left)
            rows[name], rest = deal(rest, classes, size)
    return {"train": rest, "val": rows["val"], "test": rows["test"]}


def deal(order: Tensor, classes: Tensor | None, n: int) -> tuple[Tensor, Tensor]:
    """Take n of the rows in `order`, evenly over the classes; return them and the rest."""
    by_class = torch.arange(len(order)) if classes is None else classes[order].argsort(stable=True)
    taken = torch.zeros(len(order), dtype=torch.bool)
    taken[by_class[((torch.arange(n) + 0.5) * (len(order) / n)).long()]] = True
    return order[taken], order[~taken]


def hold_out(given: Rows, classes: Tensor | None, fold: int, folds: int, generator: Generator) -> Rows:
    """Return the given rows with one of the folds of "train", which spread each class evenly, as "test"."""
    rows = given["train"]
    if len(given.get("test", ())):
        raise ConfigError("fold", fold, expected="null, because the data has a test split of its own")
    require(2 <= folds <= len(rows), "folds", folds, f"a whole number from 2 to {len(rows):,}, the samples")
    require(0 <= fold < folds, "fold", fold, f"a whole number from 0 to {folds - 1}")
    order = rows[torch.randperm(len(rows), generator=generator)]
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
