"""Checks every value of a config against the signature that it is meant for, before anything is built."""

import inspect
import types
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from descent.build import PARTS, WORDS, Signature, is_tensor, locate, read_signature
from descent.cli.compose import EMPTY, SEVERAL
from descent.errors import ConfigError, as_typed, blame, require
from descent.paths import list_groups

NEEDED = ("data", "loss", "model", "module", "optimizer", "trainer")
UNIONS, LISTS = (Union, types.UnionType), (list, tuple, Sequence, Iterable)
PLAIN = (bool, int, float, str, Path, type(None))
SAVED = {"run": str | None, "weights": Literal["best", "last"], "allow": list[str]}
FIELDS: dict[str, dict[str, Any]] = {  # the types at the root of a config; conf/<name>.yaml explains them
    "train": {
        "name": str, "folder": str, "seed": int, "fold": int | None, "folds": int,
        "threads": int | Literal["auto"], "compile": bool, "init_from": str | None, "freeze": list[str],
        "monitor": str, "mode": Literal["min", "max"], "checkpoint": dict[str, str],
        "jobs": int | Literal["auto"], "trials": int, "resume": bool | str | None, "allow": list[str],
    },
    "evaluate": {
        **SAVED, "split": Literal["train", "val", "test"], "input": str | None, "batch_size": int,
        "device": str,
    },
    "predict": {
        **SAVED, "input": str | None, "output": str, "keep": list[str], "batch_size": int, "device": str,
        "overwrite": bool,
    },
    "export": {
        **SAVED, "format": Literal["onnx", "torch_export", "hub"], "output": str | None, "overwrite": bool,
    },
    "compare": {"runs": list[str], "by": str | None, "output": str | None},
}  # fmt: skip


def check(name: str, config: Mapping[str, Any], typed: Mapping[str, str]) -> None:
    """Check that every value of a command's config is read by something, and is of its type.

    `config` contains resolved, plain values, and `typed` what the command line sets, by key.
    """
    groups = list_groups() if name == "train" else []
    needed = NEEDED if name == "train" else ()
    fields = {key: value for key, value in config.items() if key not in groups}
    known = Signature({*FIELDS[name], *groups}, FIELDS[name], open_ended=False)
    check_arguments("", fields, known, "a key of the config", typed)
    for key in (*FIELDS[name], *needed):
        if key not in config:
            raise ConfigError(f"~{key}", expected=f"a config with {key}")
    for group in groups:
        value: Any = config.get(group)
        if value in ({}, None) and (group in EMPTY or group not in config):
            continue
        inner = value.values() if group == "loss" and isinstance(value, Mapping) else ()
        if not isinstance(value, Mapping) or any(map(is_node, (value, *inner))) == (group in SEVERAL):
            from descent.cli.wrong import refuse_choice

            raise refuse_choice(group, as_typed(typed.get(group, value)))
        check_part(group, value, typed)
    if name == "train":
        check_unused(config, typed)


def is_node(value: Any) -> bool:
    """Whether a value describes an object to build."""
    return isinstance(value, Mapping) and "_target_" in value


def check_unused(config: Mapping[str, Any], typed: Mapping[str, str]) -> None:
    """Reject an override of a part that the module does not name, because it would have no effect."""
    module = config["module"]["_target_"]
    names = read_signature(locate("module._target_", module)).names
    for key, value in typed.items():
        part = PARTS.get(key.partition(".")[0], "")
        if part in ("criterion", "model", "optimizer") and part not in names:
            expected = f"no override, because {module} has no argument {part}"
            raise ConfigError(key, value, expected=expected)
    expected = f"null, because {config['data']['_target_']} has no folds"
    require(config["fold"] is None or "fold" in config["data"], "fold", config["fold"], expected)


def check_part(key: str, node: Mapping[str, Any], typed: Mapping[str, str]) -> None:
    """Check a part and everything below it; without a `_target_` it contains others by name."""
    for name, value in node.items():
        if is_node(value) or (isinstance(value, Mapping) and not is_node(node)):
            check_part(f"{key}.{name}", value, typed)
        elif not is_node(node) and key != "loss":  # the losses' shared fields are next to them
            way = f"fields that include a _target_, or ~{key}.{name} to leave it out"
            raise ConfigError(f"{key}.{name}", value, expected=way)
    if is_node(node):
        arguments = {name: value for name, value in node.items() if name not in WORDS}
        expected = f"an argument of {node['_target_']}"
        check_arguments(f"{key}.", arguments, read_arguments(key, node), expected, typed)


def check_arguments(
    prefix: str, values: Mapping[str, Any], known: Signature, expected: str, typed: Mapping[str, str]
) -> None:
    """Check that values are known by name, and of the right type."""
    for name, value in values.items():
        key = f"{prefix}{name}"
        if name not in known.names and not known.open_ended:
            near = (k for k in typed if f"{k}.".startswith(f"{key}.") or key.startswith(f"{k}."))
            asked = max(near, key=len, default=key)
            given = typed.get(asked, value)
            raise ConfigError(asked, given, expected=expected, choices=known.names, meant=name)
        if name in known.hints and not is_node(value) and not accepts(value, known.hints[name]):
            from descent.cli.wrong import refuse_value

            raise refuse_value(key, value, known.hints[name], typed.get(key, ""))


def read_arguments(key: str, node: Mapping[str, Any]) -> Signature:
    """Return a node's arguments: those of its target, and of whatever the target passes its own on to."""
    with blame(f"{key}._target_"):  # some built-in types have no signature
        signature = read_signature(locate(f"{key}._target_", node["_target_"]))
    for name, value in node.items():
        if is_node(value) and value.get("_partial_") is True and signature.open_ended:
            inner = read_arguments(f"{key}.{name}", value)
            hints = {name: hint | None for name, hint in inner.hints.items()} | signature.hints
            signature = Signature(signature.names | inner.names, hints, inner.open_ended)
    return signature


def accepts(value: Any, hint: Any) -> bool:
    """Whether a type hint accepts a plain value; unknown hints accept everything."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in UNIONS:
        return any(accepts(value, argument) for argument in without_tensors(arguments))
    if origin is Literal:
        return any(value == choice and type(value) is type(choice) for choice in arguments)
    if hint in PLAIN:
        kind: Any = {float: (int, float), Path: str}.get(hint, hint)
        in_range = not isinstance(value, int) or -(2**63) <= value < 2**63
        return isinstance(value, kind) and isinstance(value, bool) == (hint is bool) and in_range
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
