"""Checks plain YAML values against the type hints of signatures."""

import inspect
import types
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from descent.build import is_tensor

NAMES: dict[Any, str] = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
NAMES |= {Path: "text", type(None): "null", None: "null"}
UNIONS, LISTS = (Union, types.UnionType), (list, tuple, Sequence, Iterable)


def accepts(value: Any, hint: Any) -> bool:
    """Whether a hint accepts a plain value; unknown hints accept everything."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in UNIONS:
        return any(accepts(value, argument) for argument in without_tensors(arguments))
    if origin is Literal:
        return any(value == choice and type(value) is type(choice) for choice in arguments)
    if hint in NAMES:
        plain: Any = {float: (int, float), Path: str, None: type(None)}.get(hint, hint)
        in_range = not isinstance(value, int) or -(2**63) <= value < 2**63
        return isinstance(value, plain) and isinstance(value, bool) == (hint is bool) and in_range
    if is_tensor(hint):
        return value == "balanced" or accepts(value, list[float])
    if origin in LISTS:
        kinds = [argument for argument in arguments if argument is not Ellipsis]
        return isinstance(value, list) and all(any(accepts(v, kind) for kind in kinds) for v in value)
    if inspect.isclass(origin or hint) and (origin or hint) not in (object, list, dict, tuple, Any):
        return isinstance(value, dict)  # an object, built from a `_target_`
    return True


def without_tensors(hints: Sequence[Any]) -> list[Any]:
    """Return a union's types, without tensors where a number will do, such as for a learning rate."""
    return [hint for hint in hints if not (float in hints and is_tensor(hint))]


def expectation(hint: Any) -> str:
    """Return a hint in words: `a number, or null`."""
    origin, arguments = get_origin(hint), get_args(hint)
    if hint in NAMES:
        return NAMES[hint]
    if origin is Literal:
        return "one of " + ", ".join(map(str, arguments))
    if origin in UNIONS:
        return ", or ".join(dict.fromkeys(map(expectation, without_tensors(arguments))))
    if is_tensor(hint):
        return "a list of numbers, or balanced"
    if origin in LISTS:
        return f"a list, each of its values {expectation(arguments[0])}"
    return f"an object of {getattr(hint, '__name__', hint)}"


def literals(hint: Any) -> list[str]:
    """Return all words that a hint allows."""
    words = [str(choice) for choice in get_args(hint) if get_origin(hint) is Literal]
    return words or [word for argument in get_args(hint) for word in literals(argument)]
