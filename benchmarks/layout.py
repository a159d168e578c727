"""Step times of the small CNN with its weights in either memory layout, on one thread."""

import time

import torch
from torch import nn

from descent.models import CNN

SHAPES = (((1, 8, 8), 16), ((1, 8, 8), 64), ((1, 28, 28), 16), ((1, 28, 28), 64), ((3, 32, 32), 64))


def best_step(layout: torch.memory_format, shape: tuple[int, ...], batch: int) -> float:
    """Seconds of the fastest of some training steps: because others use the machine too."""
    model = CNN(shape, 10, channels=[32, 64, 128], dropout=0.0)
    model.to(memory_format=layout)  # type: ignore[call-overload]
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    inputs, targets = torch.randn(batch, *shape), torch.randint(10, (batch,))
    times = []
    for _ in range(8):
        begun = time.perf_counter()
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), targets).backward()
        optimizer.step()
        times.append(time.perf_counter() - begun)
    return min(times)


def main() -> None:
    torch.set_num_threads(1)
    print("| images | batch | contiguous, ms | channels last, ms |\n|---|---|---|---|")
    for shape, batch in SHAPES:
        layouts = (torch.contiguous_format, torch.channels_last)
        turns = [[best_step(layout, shape, batch) for layout in layouts] for _ in range(3)]
        plain, last = (min(column) * 1e3 for column in zip(*turns, strict=True))
        print(f"| {shape} | {batch} | {plain:.2f} | {last:.2f} |", flush=True)


if __name__ == "__main__":
    main()
