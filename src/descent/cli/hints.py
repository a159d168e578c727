"""Checks plain YAML values against the type hints of signatures."""

import inspect
import types
from collections.abc import Iterable, Sequence
from math import isfinite
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

LARGEST = 3.4e38  # of a float32
NAMES = {bool: "true or false", int: "a whole number", float: "a number", str: "text", type(None): "null"}


def accepts(value: Any, hint: Any) -> bool:
    """Whether a hint accepts a plain value; unknown hints accept everything."""
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is None or hint is type(None):
        return value is None
    if origin in (Union, types.UnionType):
        return any(accepts(value, argument) for argument in without_tensors(arguments))
    if origin is Literal:
        return any(value == choice and type(value) is type(choice) for choice in arguments)
    if hint is bool:
        return isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63
    if hint is float:
        return is_number(value) and not too_large(value)
    if hint is str or hint is Path:
        return isinstance(value, str)
    if is_tensor(hint):
        return value == "balanced" or (isinstance(value, list) and all(accepts(v, float) for v in value))
    if origin is tuple and arguments[-1] is not Ellipsis:
        right_length = isinstance(value, list) and len(value) == len(arguments)
        return right_length and all(map(accepts, value, arguments))
    if origin in (list, tuple, Sequence, Iterable):
        return isinstance(value, list) and all(accepts(item, arguments[0]) for item in value)
    if inspect.isclass(origin or hint) and (origin or hint) not in (object, list, dict, tuple, Any):
        return isinstance(value, dict)  # an object, built from a `_target_`
    return True


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def too_large(value: Any) -> bool:
    """Whether a value is a number too large for float32."""
    return is_number(value) and not (isfinite(value) and abs(value) <= LARGEST)


def is_tensor(hint: Any) -> bool:
    """Whether a hint is torch's Tensor, recognised without importing torch."""
    return getattr(hint, "__module__", "") == "torch" and getattr(hint, "__name__", "") == "Tensor"


def without_tensors(hints: Sequence[Any]) -> list[Any]:
    """Return a union's types, without tensors where a number will do, such as for a learning rate."""
    return [hint for hint in hints if not (float in hints and is_tensor(hint))]


def expectation(hint: Any) -> str:
    """Return a hint in words: `a number, or null`."""
    origin, arguments = get_origin(hint), get_args(hint)
    if words := literals(hint):
        others = [NAMES[argument] for argument in arguments if argument in NAMES]
        return ", or ".join(["one of " + ", ".join(dict.fromkeys(words)), *others])
    if hint in NAMES:
        return NAMES[hint]
    if is_tensor(hint):
        return "a list of numbers, or balanced"
    if origin in (Union, types.UnionType):
        plain = without_tensors(arguments)
        known = [a for a in plain if a in NAMES or is_tensor(a) or get_origin(a) is not None]
        return ", or ".join(dict.fromkeys(map(expectation, known))) or "an object"
    if origin is tuple and arguments[-1] is not Ellipsis:
        return f"a list of {len(arguments)} values"
    if origin in (list, tuple, Sequence, Iterable):
        return f"a list, each of its values {expectation(arguments[0])}"
    return f"an object of {getattr(hint, '__name__', hint)}"


def literals(hint: Any) -> list[str]:
    """Return all words that a hint allows."""
    if get_origin(hint) is Literal:
        return [str(choice) for choice in get_args(hint)]
    return [word for argument in get_args(hint) for word in literals(argument)]
