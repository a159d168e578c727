"""What the rest of a run asks its data, whatever its class: each answer is optional."""

from collections import Counter
from typing import Any

from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from torch.nn.parameter import is_lazy

from descent.task import Task

LINES = 20  # of a preview in the terminal


def find_task(data: Any) -> Task:
    """Return the data's task, or one that changes nothing if the data has none."""
    return getattr(data, "task", None) or Task()


def find_sizes(data: Any) -> dict[str, Any]:
    """Return sizes that models and metrics may name, such as `input_shape`, `outputs` and `num_classes`."""
    return {**find_task(data).sizes(), **getattr(data, "sizes", {})}


def count_batches(data: Any) -> int | None:
    """Return the number of training batches per epoch in one process, or None if it is unknown."""
    return data.count_batches() if hasattr(data, "count_batches") else None


def describe(data: Any, module: LightningModule, started: str, name: str) -> tuple[str, str]:
    """Return the lines that a run begins with, after those on its weights, and the text of its data.txt."""
    # Lightning's own text lists the loaders on four lines
    text = type(data).__name__ if type(data).__str__ is LightningDataModule.__str__ else str(data)
    size = f"{sum(p.numel() for p in module.parameters() if not is_lazy(p)):,} parameters"
    preview = getattr(data, "preview", "")
    return f"{shorten(preview)}{started}{name}: {size}, {text}", preview or f"{text}\n"


def shorten(preview: str) -> str:
    """Return a preview for the terminal: its first lines, and a count of the others."""
    lines = preview.splitlines(keepends=True)
    rest = Counter(line[2:12].strip() for line in lines[LINES:])
    counts = ", ".join(f"{count:,} {kind}" for kind, count in rest.items())
    more = f"  …         {counts}; data.txt lists all of them\n" if rest else ""
    return "".join(lines[:LINES]) + more


def describe_data(trainer: Trainer) -> dict[str, Any]:
    """Return the "data" part of a checkpoint; nothing if the data has no `describe`."""
    data: Any = trainer.datamodule  # type: ignore[attr-defined]
    return {"data": {**data.describe(), "examples": data.examples}} if hasattr(data, "describe") else {}
