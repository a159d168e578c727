"""Decides which samples are for training, validation and test: as given, or drawn by a seed."""

from collections.abc import Mapping

import torch
from torch import Generator, Tensor

from descent.errors import require

Rows = Mapping[str, Tensor]  # of each split, int64


def draw_splits(
    given: Rows, classes: Tensor | None, generator: Generator, test: float | None, val: float
) -> dict[str, Tensor]:
    """Return the rows of "train", "val" and "test", drawn at random and evenly over the classes of all rows.

    Where "test" or "val" is missing or empty, that fraction of "train" takes its place.
    """
    rows = {"val": torch.arange(0), "test": torch.arange(0), **given}
    n = len(rows["train"])  # the fractions refer to this number
    rest = rows["train"][torch.randperm(n, generator=generator)]
    for name, fraction in (("test", test), ("val", val)):
        if len(rows[name]) == 0:
            size = round(n * (fraction or 0))
            expected = f"a share between 0 and 1 of {n:,} samples that leaves some on each side"
            require(0 < size < len(rest), f"{name}_fraction", fraction, expected)
            by_class = torch.arange(len(rest)) if classes is None else classes[rest].argsort(stable=True)
            taken = torch.zeros(len(rest), dtype=torch.bool)
            taken[by_class[((torch.arange(size) + 0.5) * (len(rest) / size)).long()]] = True
            rows[name], rest = rest[taken], rest[~taken]
    return {"train": rest, "val": rows["val"], "test": rows["test"]}
