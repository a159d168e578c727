"""`python -m descent.cli.schema` writes JSON schemas of conf/, from the signatures used to check a run.

An editor that reads .vscode/settings.json then completes these files and marks errors in them.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from omegaconf import OmegaConf

from descent.build import WORDS, Signature
from descent.cli.check import FIELDS, LISTS, SEVERAL, UNIONS, read_arguments, without_tensors
from descent.errors import ConfigError
from descent.paths import CONF, ROOT, list_groups

Schema = dict[str, Any]
FOLDER = ROOT / ".vscode/schemas"
PLAIN = {bool: "boolean", int: "integer", float: "number", str: "string", Path: "string", type(None): "null"}
REFERENCE: Schema = {"type": "string", "pattern": r"\$\{|^\?\?\?$"}  # to another or a typed value


def describe_type(hint: Any) -> Schema:
    """Return the schema of a type; {} accepts everything."""
    origin, arguments = get_origin(hint), get_args(hint)
    if hint in PLAIN:
        return {"type": PLAIN[hint]}
    if origin is Literal:
        return {"enum": list(arguments)}
    if origin in UNIONS:
        parts = [describe_type(argument) for argument in without_tensors(arguments)]
        return {"anyOf": parts} if all(parts) else {}
    return {"type": "array"} if origin in LISTS else {}


def describe_fields(hints: Mapping[str, Any], *more: str, closed: bool = True) -> Schema:
    """Return the schema of exactly these fields, each of its type or a reference such as `${seed}`."""
    values: Schema = {name: {} for name in more}
    for name, hint in hints.items():
        known = describe_type(hint)
        values[name] = {"anyOf": [known, REFERENCE]} if known else {}
    return {"properties": values, "additionalProperties": not closed}


def describe_node(node: Mapping[str, Any]) -> Schema:
    """Return the schema of the arguments of a node with a `_target_`, and how to recognise such a node."""
    known: Schema = {"_target_": {"const": node["_target_"]}}
    for name, inner in node.items():
        if isinstance(inner, Mapping) and inner.get("_partial_"):  # such as the scheduler of a schedule
            known[name] = {"properties": {"_target_": {"const": inner["_target_"]}}, "required": ["_target_"]}
    try:
        signature = read_arguments("", node)
    except ConfigError:  # a library that is not installed, or ??? that must be typed
        signature = Signature(set(), {}, open_ended=True)
    hints = {name: signature.hints.get(name, Any) for name in sorted(signature.names)}
    then = describe_fields(hints, "defaults", *WORDS, closed=not signature.open_ended)
    return {"if": {"properties": known, "required": [*known]}, "then": then}


def describe_group(nodes: Iterable[Mapping[str, Any]], several: bool) -> Schema:
    """Return the schema of a group's files, from the nodes that they contain.

    A node without a `_target_` extends another file: it may set any argument of any target in the group.
    """
    rules = list({json.dumps(rule["if"]): rule for rule in map(describe_node, nodes)}.values())
    every: Schema = {}
    for rule in rules:
        for name, value in rule["then"]["properties"].items():
            every[name] = value if every.get(name, value) == value else {}
    plain = {"properties": every, "additionalProperties": {"type": "object"}}
    rules.append({"if": {"required": ["_target_"]}, "else": plain})
    node = {"type": ["object", "null"], "allOf": rules}
    return {"properties": {"defaults": {}}, "additionalProperties": node} if several else node


def find_nodes(value: Any) -> Iterator[Mapping[str, Any]]:
    """Yield the outermost nodes with a `_target_` in nested values."""
    if isinstance(value, Mapping) and value.get("_target_", "???") != "???":
        yield value
        return
    for child in value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ():
        yield from find_nodes(child)


def describe_conf() -> dict[str, Schema]:
    """Return the schema of each group's files, and of each command's own file."""
    groups: dict[str, Schema] = {}
    recipes = [OmegaConf.to_container(OmegaConf.load(file)) for file in (CONF / "experiment").glob("*.yaml")]
    for group in list_groups():
        contents = [OmegaConf.to_container(OmegaConf.load(file)) for file in (CONF / group).glob("*.yaml")]
        contents += [recipe.get(group) for recipe in recipes if isinstance(recipe, dict)]
        groups[group] = describe_group(find_nodes(contents), group in SEVERAL)
    train = {**FIELDS["train"], "name": str | None, "folder": str | None}  # filled in when a run is composed
    fields = {**FIELDS, "train": train}
    commands = {name: describe_fields(hints, "defaults", "hydra") for name, hints in fields.items()}
    recipe = describe_fields(train, "defaults", "hydra")
    recipe["properties"] |= groups
    return {**groups, **commands, "experiment": recipe, "local": recipe}


if __name__ == "__main__":
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, schema in describe_conf().items():
        (FOLDER / f"{name}.json").write_text(json.dumps(schema, indent=1) + "\n", encoding="utf-8")
    print(f"{FOLDER}: {len(list(FOLDER.glob('*.json')))} schemas")
