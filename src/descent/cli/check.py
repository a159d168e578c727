"""Checks every value of a config against the signature that it is meant for, before anything is built."""

from collections.abc import Mapping
from typing import Any

from descent.build import PARTS, WORDS, Signature, locate, read_signature
from descent.cli.compose import EMPTY, SEVERAL, refuse_choice
from descent.cli.fields import FIELDS
from descent.cli.hints import accepts, expectation, literals
from descent.errors import ConfigError, as_typed, blame, require
from descent.paths import list_choices, list_groups

NEEDED = ("data", "loss", "model", "module", "optimizer", "trainer")


def check(name: str, config: Mapping[str, Any], typed: Mapping[str, str]) -> None:
    """Check that every value of a command's config is read by something, and is of its type.

    `config` contains resolved, plain values, and `typed` what the command line sets, by key.
    """
    groups, needed = (list_groups(), NEEDED) if name == "train" else ([], ())
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
        parts = [value, *(value.values() if group == "loss" else ())] if isinstance(value, Mapping) else []
        if not parts or any(map(is_node, parts)) == (group in SEVERAL):
            raise refuse_choice(group, as_typed(typed.get(group, value)), list_choices(group))
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


def refuse_value(key: str, value: Any, hint: Any, text: str) -> ConfigError:
    """Return the error for a plain value, typed as `text`, that a type does not accept."""
    expected = expectation(hint)
    if "${oc.env" in text:
        expected += f": '{key}=${{oc.decode:{text}}}'"
    elif text and not text.startswith("'") and accepts("text", hint):
        expected += f""": "{key}='{text}'\""""
    elif isinstance(value, str) and "," in value and not accepts([], hint):
        expected += ", or -m to run each"
    return ConfigError(key, value, expected=expected, choices=literals(hint))
