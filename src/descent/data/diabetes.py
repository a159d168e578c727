"""442 patients and the progression of their diabetes, bundled with this package."""

from pathlib import Path

import numpy as np
import torch

from descent.data.samples import Samples


def diabetes() -> Samples:
    """Return 10 measurements of 442 patients; the value is the disease's progression in a year, 25 to 346.

    Source: Efron, Hastie, Johnstone & Tibshirani (2004), "Least Angle Regression", Annals of Statistics 32;
    the files are those of `sklearn.datasets.load_diabetes(scaled=False)`, BSD-3-Clause.
    """
    folder = Path(__file__).parent / "bundled"
    files = (folder / f"diabetes_{name}.csv.gz" for name in ("data_raw", "target"))
    measurements, progression = (torch.from_numpy(np.loadtxt(file)).float() for file in files)
    return Samples(measurements, progression, ["progression"])
