"""When a second CPU thread starts to pay off: step times by batch, for `NUMBERS_A_THREAD` in machine.py."""

import time

import torch
from jobs import JOBS, draw
from torch import nn

REPEATS, STEPS = 15, 10


def step_time(model: nn.Module, inputs: torch.Tensor, targets: torch.Tensor, threads: int) -> float:
    """Seconds of a training step: the least of many means, because others use the machine too."""
    torch.set_num_threads(threads)
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    begun = time.perf_counter()
    for _ in range(STEPS):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), targets).backward()
        optimizer.step()
    return (time.perf_counter() - begun) / STEPS


def main() -> None:
    threads = [1, torch.get_num_threads()]
    print(
        f"| network | batch | numbers in a batch | 1 thread, ms | {threads[1]} threads, ms |"
        "\n|---|---|---|---|---|"
    )
    for key in ("digits-64", "images-64", "cnn-128"):
        job = JOBS[key]
        for batch in (16, 64, 256, 1024):
            model = job.model()
            inputs, targets = draw(batch, job.shape, 10, False)
            times = [[step_time(model, inputs, targets, n) for n in threads] for _ in range(REPEATS)]
            one, several = (min(column) * 1e3 for column in zip(*times, strict=True))
            kind = "CNN" if job.channels else "MLP"
            print(
                f"| {kind} {job.shape} | {batch} | {inputs.numel():,} | {one:.2f} | {several:.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
