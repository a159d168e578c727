"""Several yes-or-no answers for each sample: which digits does a picture of several show?"""

import torch
from torch.nn import functional as F

from descent.data.digits import digits
from descent.data.samples import Samples


def overlays(count: int, most: int) -> Samples:
    """Return pictures `(count, 1, 8, 8)` of up to `most` overlaid digits, and which digits they show.

    The targets are 0 or 1 for each of the ten digits, `(count, 10)`.
    """
    generator = torch.Generator().manual_seed(0)  # the data set is the same, whatever a run's seed
    one = digits()
    rows = torch.randint(len(one.targets), (count, most), generator=generator)
    there = torch.rand(count, most, generator=generator) < 0.5
    there[:, 0] = True  # at least one
    pictures = (one.inputs[rows] * there[..., None, None, None]).amax(1)
    answers = (F.one_hot(one.targets[rows], 10) * there[..., None]).amax(1)
    return Samples(pictures, answers.float(), one.names)
