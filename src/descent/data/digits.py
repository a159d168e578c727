"""1,797 handwritten digits, bundled with this package."""

from pathlib import Path

import numpy as np
import torch

from descent.data.samples import Samples


def digits() -> Samples:
    """Return 1,797 grey images of shape `(1, 8, 8)` with values from 0 to 16, in 10 classes.

    Source: E. Alpaydin & C. Kaynak (1998), Optical Recognition of Handwritten Digits, UCI Machine Learning
    Repository, CC BY 4.0; the file is that of `sklearn.datasets.load_digits`, BSD-3-Clause.
    """
    file = Path(__file__).parent / "bundled/digits.csv.gz"
    table = torch.from_numpy(np.loadtxt(file, delimiter=",", dtype=np.float32))
    images, classes = table[:, :-1].reshape(-1, 1, 8, 8).contiguous(), table[:, -1].long()
    return Samples(images, classes, [str(digit) for digit in range(10)])
