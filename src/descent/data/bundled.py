"""Data sets that come with scikit-learn: nothing to download."""

import torch

from descent.data.memory import InMemory


def digits(
    batch_size: int, eval_batch_size: int, val_fraction: float, test_fraction: float, seed: int, label_noise: float
) -> InMemory:
    """1,797 handwritten digits, grey images of shape `(1, 8, 8)`, values 0 to 16, 10 classes.

    Source: E. Alpaydin & C. Kaynak (1998), Optical Recognition of Handwritten Digits, UCI Machine Learning
    Repository. The arguments are those of `InMemory`.
    """
    from sklearn.datasets import load_digits

    images, classes = load_digits(return_X_y=True)
    return InMemory(
        torch.tensor(images, dtype=torch.float32).reshape(-1, 1, 8, 8),
        torch.tensor(classes),
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
    """442 patients, 10 measurements each; the target is the progression of the disease after a year, 25 to 346.

    Source: Efron, Hastie, Johnstone & Tibshirani (2004), "Least Angle Regression". The arguments are those
    of `InMemory`.
    """
    from sklearn.datasets import load_diabetes

    measurements, progression = load_diabetes(return_X_y=True, scaled=False)
    return InMemory(
        torch.tensor(measurements, dtype=torch.float32),
        torch.tensor(progression, dtype=torch.float32).reshape(-1, 1),
        ["progression"],
        batch_size=batch_size,
        eval_batch_size=eval_batch_size,
        val_fraction=val_fraction,
        test_fraction=test_fraction,
        seed=seed,
    )
