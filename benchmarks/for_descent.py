"""The large jobs' data in the template's form: `data=samples data.source._target_=for_descent.images`."""

import os

from jobs import JOBS, draw

from descent.data.samples import Samples


def images() -> Samples:
    """Return random images of the shape of the job that SPEED_JOB names, 10 classes."""
    job = JOBS[os.environ["SPEED_JOB"]]
    inputs, targets = draw(total(), job.shape, job.outputs, False)
    return Samples(inputs, targets, [str(digit) for digit in range(job.outputs)])


def rows() -> Samples:
    """Return random rows of 32 numbers, one real-valued target."""
    inputs, targets = draw(total(), (32,), 1, True)
    return Samples(inputs, targets, ["target"])


def total() -> int:
    """Return the number of samples of all splits: eight tenths of them are the job's."""
    return int(os.environ["SPEED_SAMPLES"]) * 10 // 8
