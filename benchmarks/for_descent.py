"""The large jobs' data as the template takes data: `data._target_=for_descent.images`."""

import os

from jobs import JOBS, draw

from descent.data.memory import InMemory


def images(
    batch_size: int, eval_batch_size: int, val_fraction: float, test_fraction: float, seed: int
) -> InMemory:
    """Random images of the shape of the job that SPEED_JOB names, 10 classes."""
    job = JOBS[os.environ["SPEED_JOB"]]
    inputs, targets = draw(total(), job.shape, job.outputs, False)
    return InMemory(
        inputs,
        targets,
        [str(digit) for digit in range(job.outputs)],
        batch_size=batch_size,
        eval_batch_size=eval_batch_size,
        val_fraction=0.1,
        test_fraction=0.1,
        seed=seed,
    )


def rows(
    batch_size: int, eval_batch_size: int, val_fraction: float, test_fraction: float, seed: int
) -> InMemory:
    """Random rows of 32 numbers, one real-valued target."""
    inputs, targets = draw(total(), (32,), 1, True)
    return InMemory(
        inputs,
        targets,
        ["target"],
        batch_size=batch_size,
        eval_batch_size=eval_batch_size,
        val_fraction=0.1,
        test_fraction=0.1,
        seed=seed,
    )


def total() -> int:
    """Samples of all splits: eight tenths of them are the job's."""
    return int(os.environ["SPEED_SAMPLES"]) * 10 // 8
