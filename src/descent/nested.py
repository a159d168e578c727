"""Nested values: a tensor, or tuples, lists and dicts of tensors."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor


def list_tensors(value: Any) -> list[Tensor]:
    """Return the tensors in a value."""
    if isinstance(value, Tensor):
        return [value]
    parts = value.values() if isinstance(value, Mapping) else value if isinstance(value, tuple | list) else ()
    return [tensor for part in parts for tensor in list_tensors(part)]


def map_tensors(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Return a value of the same structure with each tensor changed."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, Mapping):
        return {key: map_tensors(part, change) for key, part in value.items()}
    if isinstance(value, tuple | list):
        parts = [map_tensors(part, change) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    return value


def count_samples(value: Any) -> int:
    """Return the length of the first tensor of a value, 1 for a number."""
    tensors = list_tensors(value)
    return tensors[0].shape[0] if tensors and tensors[0].dim() else 1


def concatenate(values: Any) -> Any:
    """Join values of the same structure, their tensors along the batch; numbers become a list."""
    first = values[0]
    if isinstance(first, Tensor):
        join = torch.cat if first.dim() else torch.stack
        return first if len(values) == 1 else join(values)
    if isinstance(first, Mapping):
        return {key: concatenate([value[key] for value in values]) for key in first}
    if isinstance(first, tuple | list):
        return [concatenate(parts) for parts in zip(*values, strict=True)]
    return list(values)
