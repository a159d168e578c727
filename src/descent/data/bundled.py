"""Data sets that come with scikit-learn: nothing to download."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from descent.data.memory import InMemory


def digits(
    batch_size: int,
    eval_batch_size: int,
    val_fraction: float,
    test_fraction: float,
    seed: int,
    label_noise: float,
) -> InMemory:
    """1,797 handwritten digits, grey images of shape `(1, 8, 8)`, values 0 to 16, 10 classes.

    Source: E. Alpaydin & C. Kaynak (1998), Optical Recognition of Handwritten Digits, UCI Machine Learning
    Repository. The arguments are those of `InMemory`.
    """
    table = read("digits.csv.gz", delimiter=",")
    return InMemory(
        table[:, :-1].float().reshape(-1, 1, 8, 8),
        table[:, -1].long(),
        [str(digit) for digit in range(10)],
        batch_size=batch_size,
        eval_batch_size=eval_batch_size,
        val_fraction=val_fraction,
        test_fraction=test_fraction,
        seed=seed,
        label_noise=label_noise,
    )


def diabetes(
    batch_size: int, eval_batch_size: int, val_fraction: float, test_fraction: float, seed: int
) -> InMemory:
    """442 patients, 10 measurements each; the target is the disease's progression after a year, 25 to 346.

    Source: Efron, Hastie, Johnstone & Tibshirani (2004), "Least Angle Regression". The arguments are those
    of `InMemory`.
    """
    return InMemory(
        read("diabetes_data_raw.csv.gz").float(),
        read("diabetes_target.csv.gz").float().reshape(-1, 1),
        ["progression"],
        batch_size=batch_size,
        eval_batch_size=eval_batch_size,
        val_fraction=val_fraction,
        test_fraction=test_fraction,
        seed=seed,
    )


def read(name: str, delimiter: str | None = None) -> Tensor:
    """A table of numbers in scikit-learn's `datasets/data`, float64.

    What `sklearn.datasets.load_digits` and `load_diabetes` read, without the second or two that it takes to
    import scikit-learn and, where it is installed, pandas.
    """
    spec = find_spec("sklearn")
    assert spec is not None
    assert spec.origin is not None
    return torch.from_numpy(
        np.loadtxt(Path(spec.origin).parent / "datasets" / "data" / name, delimiter=delimiter)
    )
