"""Checks every value of a config against the signature that it is meant for, before anything is built."""

from collections.abc import Mapping
from typing import Any

from descent.build import WORDS, Signature, locate, read_signature
from descent.cli.compose import EMPTY, SEVERAL
from descent.cli.fields import FIELDS
from descent.cli.hints import LARGEST, accepts, expectation, literals, too_large
from descent.errors import ConfigError, as_typed, nearest
from descent.paths import list_choices, list_groups


def check(name: str, config: Mapping[str, Any], typed: Mapping[str, str]) -> None:
    """Check every value of a config against the signature that it is meant for.

    Args:
        name: the command's name.
        config: resolved, plain values.
        typed: what the command line sets, by key.

    Raises:
        ConfigError: the first value that does not fit, or that nothing reads.
    """
    groups = [group for group in list_groups() if group in config and name == "train"]
    check_fields("", {k: v for k, v in config.items() if k not in groups}, FIELDS[name], typed)
    for group in groups:
        check_group(group, config[group], typed)
    missing = {"data", "model", "loss", "module", "optimizer", "trainer"} - config.keys()
    if name == "train" and missing:
        raise ConfigError(f"~{min(missing)}", expected=f"a config that has {min(missing)}")
    if name == "train":
        check_unused(config, typed)


def check_unused(config: Mapping[str, Any], typed: Mapping[str, str]) -> None:
    """Reject an override of a part that the module does not name, because it would have no effect."""
    module = config["module"]["_target_"]
    names = read_signature(locate("module._target_", module)).names
    for group, part in {"loss": "criterion", "model": "model", "optimizer": "optimizer"}.items():
        key = next((key for key in typed if key.partition(".")[0] == group), None)
        if key and part not in names:
            expected = f"no such choice, because {module} has no argument {part}"
            raise ConfigError(key, typed[key], expected=expected)
    if config["fold"] is not None and "fold" not in config["data"]:
        expected = f"null, because {config['data']['_target_']} has no folds"
        raise ConfigError("fold", config["fold"], expected=expected)


def check_fields(
    prefix: str, values: Mapping[str, Any], known: Mapping[str, Any], typed: Mapping[str, str]
) -> None:
    """Check the fields that belong to no group: none is missing or unknown, and all types are right."""
    for name in values:
        if name not in known:
            key = f"{prefix}{name}"
            asked = next((k for k in typed if f"{k}.".startswith(f"{key}.")), key)
            near = nearest(key, [*(f"{prefix}{n}" for n in known), *list_groups()])
            raise refuse(asked, typed.get(asked, values[name]), "a key of the config", near)
    for name in known:
        if name not in values:
            raise ConfigError(f"~{prefix}{name}", expected=f"a config that has {prefix}{name}")
        if isinstance(known[name], dict):
            if not isinstance(values[name], Mapping):
                raise refuse(f"{prefix}{name}", values[name], "fields")
            check_fields(f"{prefix}{name}.", values[name], known[name], typed)
        else:
            check_value(f"{prefix}{name}", values[name], known[name], typed)


def check_group(group: str, value: Any, typed: Mapping[str, str]) -> None:
    """Check that a group is one of its files, or several for some groups, and check everything in it."""
    if group in EMPTY and not value and value in ({}, None):
        return
    if isinstance(value, Mapping) and "_target_" in value and group not in SEVERAL:
        check_node(group, value, typed)
    elif isinstance(value, Mapping) and "_target_" not in value and group in (*SEVERAL, "loss"):
        check_collection(group, value, typed)
    else:
        given, known = typed.get(group, value), list_choices(group)
        raise refuse(group, given, f"one of {', '.join(known)}", nearest(as_typed(given), known))


def check_collection(key: str, nodes: Mapping[str, Any], typed: Mapping[str, str]) -> None:
    """Check named nodes; some are grouped under a kind of task, such as `classes`."""
    for name, node in nodes.items():
        if isinstance(node, Mapping) and "_target_" in node:
            check_node(f"{key}.{name}", node, typed)
        elif isinstance(node, Mapping) and node and not any(f"{k}." == f"{key}.{name}." for k in typed):
            check_collection(f"{key}.{name}", node, typed)
        elif key == "loss":
            known = {argument for other in nodes.values() if isinstance(other, Mapping) for argument in other}
            if name not in known:
                raise refuse(f"loss.{name}", node, "an argument of a loss", nearest(name, known))
        elif node != {}:
            way = f"fields, one of them a _target_, or ~{key}.{name}, which leaves it out"
            raise refuse(f"{key}.{name}", node, way)


def check_node(key: str, node: Mapping[str, Any], typed: Mapping[str, str]) -> None:
    """Check a part of the config and everything below it against the signature of its `_target_`."""
    for name, value in node.items():
        if isinstance(value, Mapping) and "_target_" in value:
            check_node(f"{key}.{name}", value, typed)
    check_value(f"{key}._partial_", node.get("_partial_", False), bool, typed)
    signature = read_arguments(key, node)
    for name, value in node.items():
        if name in WORDS:
            continue
        if name.startswith("_") or (name not in signature.names and not signature.open_ended):
            full = f"{key}.{name}"
            asked = next((k for k in typed if full == k or full.startswith(f"{k}.")), full)
            raise refuse(asked, typed.get(asked, value), f"an argument of {node['_target_']}",
                         nearest(name, signature.names))  # fmt: skip
        if name in signature.hints and not (isinstance(value, Mapping) and "_target_" in value):
            check_value(f"{key}.{name}", value, signature.hints[name], typed)


def read_arguments(key: str, node: Mapping[str, Any]) -> Signature:
    """Return a node's arguments: those of its target, and of whatever the target passes its own on to."""
    signature = read(key, node["_target_"])
    for value in node.values():
        if isinstance(value, Mapping) and value.get("_partial_") is True and signature.open_ended:
            inner = read(key, value["_target_"])
            hints = {name: hint | None for name, hint in inner.hints.items()} | signature.hints
            signature = Signature(signature.names | inner.names, hints, inner.open_ended)
    return signature


def read(key: str, target: Any) -> Signature:
    """Return the signature of a target, or raise a ConfigError where it is not known."""
    try:
        return read_signature(locate(f"{key}._target_", target))
    except ValueError as error:
        if isinstance(error, ConfigError):
            raise
        # some built-in types have no signature
        raise refuse(f"{key}._target_", target, "a class or function whose arguments are known") from error


def check_value(key: str, value: Any, hint: Any, typed: Mapping[str, str]) -> None:
    """Check a plain value against a type."""
    if accepts(value, hint):
        return
    expected, text = expectation(hint), typed.get(key, "")
    if too_large(value) and accepts(0.5, hint):
        expected = f"a number of at most {LARGEST:g}"
    elif "${oc.env" in text:
        expected += f": '{key}=${{oc.decode:{text}}}'"
    elif text and not text.startswith("'") and accepts("text", hint):
        expected += f""": "{key}='{text}'\""""
    elif isinstance(value, str) and "," in value and not accepts([], hint):
        expected += ", or -m for a run of each"
    raise refuse(key, value, expected, nearest(str(value), literals(hint)))


def refuse(key: str, value: Any, expected: str, near: str = "") -> ConfigError:
    """Return the error for a value."""
    problem = ConfigError(key, value, expected=expected)
    problem.nearest = near
    return problem
