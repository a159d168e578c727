"""Builds the object that a node of the config describes: a target gets what its signature names."""

import inspect
import sys
import typing
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import Any

from descent.errors import ConfigError, blame, first_line, nearest, require

WORDS = ("_target_", "_partial_", "_args_")  # of a node, in addition to its arguments
FETCHED = ("download", "pretrained")  # arguments that make a target download something
PARTS = {"model": "model", "loss": "criterion", "optimizer": "optimizer"}  # and the module's names of them
PARTS |= {"scheduler": "schedule", "metrics": "metrics"}


class Config(dict[str, Any]):
    """A resolved config: nested dicts whose keys are attributes too, such as `config.trainer.max_epochs`."""

    def __getattr__(self, name: str) -> Any:
        if name not in self:
            raise AttributeError(name)
        return Config(self[name]) if type(self[name]) is dict else self[name]


def builder(config: Mapping[str, Any], allowed: Collection[str] | None = None) -> Callable[..., Any]:
    """Return `build`: `build("model", outputs=10)` makes what `config.model` describes.

    Parts that the module does not name, such as the model of a module that makes its own, are not built.
    """
    named = read_signature(locate("module._target_", config["module"].get("_target_"), allowed)).names

    def build(key: str, **offers: Any) -> Any:
        if key in PARTS and PARTS[key] not in named:
            return None
        return build_node(key, config[key], offers, allowed)

    return build


def build_node(
    key: str, node: Any, offers: Mapping[str, Any] | None = None, allowed: Collection[str] | None = None
) -> Any:
    """Build what a node of plain values describes.

    A node with a `_target_` calls it with the node's fields, plus the offers that its signature names and the
    node does not set (an offered tensor is set anyway); `_partial_: true` returns a partial. A node without
    one becomes a dict of what its children describe, which get the same offers; of children grouped by words
    such as `classes` and `values`, those of the offered task. `allowed`: all names that may be used.
    """
    offers = offers or {}
    if isinstance(node, list):
        return [build_node(f"{key}.{index}", item, None, allowed) for index, item in enumerate(node)]
    if not isinstance(node, Mapping):
        return node
    if "_target_" not in node and offers.get("task") is not None:
        node = choose_by_task(key, node, offers["task"])
    if "_target_" not in node:
        return {name: build_node(f"{key}.{name}", child, offers, allowed) for name, child in node.items()}
    target = locate(f"{key}._target_", node["_target_"], allowed)
    signature = read_signature(target)
    values = {k: build_node(f"{key}.{k}", v, None, allowed) for k, v in node.items() if k not in WORDS}
    for name, offer in offers.items():
        if name in signature.names and (values.get(name) is None or is_tensor(type(offer))):
            values[name] = offer
    if allowed is not None:  # a trained run needs no download
        values |= {name: False for name in FETCHED if name in values}
    for name, value in values.items():
        if isinstance(value, list) and is_tensor(signature.hints.get(name)):
            values[name] = import_module("torch").tensor(value).float()
    arguments = build_node(f"{key}._args_", node.get("_args_", []), None, allowed)
    with blame(key):
        if node.get("_partial_"):
            return partial(target, *arguments, **values)
        made = target(*arguments, **values)
    torch: Any = sys.modules.get("torch")  # not imported, so that --help need not wait for it
    if torch and isinstance(made, torch.nn.Module) and "_parameters" not in vars(made):
        expected = f"a class whose __init__ calls super().__init__() first; {type(made).__name__}'s does not"
        raise ConfigError(key, expected=expected)
    return made


def choose_by_task(key: str, node: Mapping[str, Any], task: Any) -> Mapping[str, Any]:
    """Return a node's part for the task: in its place if it has a `_target_`, else merged with the rest."""
    kinds = node.keys() & {*task.KINDS, task.kind}
    common, part = {k: child for k, child in node.items() if k not in kinds}, node.get(task.kind) or {}
    require(isinstance(part, Mapping), f"{key}.{task.kind}", part, "fields that include a _target_")
    if not part and any("_target_" in node[kind] for kind in kinds):
        expected = f"a choice, because there is no default for the task {task.kind or 'of this data'}"
        raise ConfigError(key, expected=expected)
    if "_target_" not in part:
        return {**part, **common}
    for name in common.keys() - part.keys():  # such as class weights
        expected = f"null, because the one of {task.kind} has none"
        require(not node[name], f"{key}.{name}", node[name], expected)
    return part


# ---- names and signatures ----------------------------------------------------------------------------------


def locate(key: str, name: object, allowed: Collection[str] | None = None) -> Callable[..., Any]:
    """Import the class or function that a config names, such as "torch.nn.Linear".

    `allowed` lists names, or modules whose own names, a config from elsewhere may use; None: the user's own.
    """
    if not isinstance(name, str) or "." not in name.strip("."):
        raise ConfigError(key, name, expected="a class or function with its module, such as torch.nn.L1Loss")
    module = name.rpartition(".")[0]
    trusted = allowed is None or name in allowed
    if not trusted and module in (allowed or ()):
        trusted = getattr(import_name(key, name), "__module__", "") == module
    if not trusted:
        expected = f"a name that conf/ contains, or that you type; trust it by allow=[{name}]"
        raise ConfigError(key, name, expected=expected)
    found = import_name(key, name)
    if not callable(found):
        raise ConfigError(key, name, expected=f"a class or function, not a {type(found).__name__}")
    return found


def import_name(key: str, name: str) -> Any:
    """Return what a dotted name stands for: something of a module, or of a class in one."""
    found, reached = None, ""
    for part in name.split("."):
        reached = f"{reached}.{part}" if reached else part
        try:
            found = getattr(found, part) if hasattr(found, part) else import_module(reached)
        except Exception as error:  # a user's module may raise anything when it is imported
            wrong = ConfigError(key, name, expected="a class or function that can be imported")
            absent = isinstance(error, ModuleNotFoundError) and f"{reached}.".startswith(f"{error.name}.")
            if absent and found is not None:
                near = nearest(part, [word for word in dir(found) if not word.startswith("_")])
                wrong.nearest = near and f"{reached.removesuffix(part)}{near}{name.removeprefix(reached)}"
            else:
                wrong.expected += f" ({first_line(error)})"
            raise wrong from error
    return found


@dataclass
class Signature:
    """The arguments of a class or function."""

    names: set[str]  # of all its arguments
    hints: dict[str, Any]  # the type hint of each argument that has one
    open_ended: bool  # whether it also accepts any other argument


def read_signature(target: Callable[..., Any]) -> Signature:
    """Return a target's arguments, including its base's if a class passes `**arguments` on."""
    functions: list[Callable[..., Any]] = []
    if inspect.isclass(target) and "__new__" not in vars(target):
        functions = [vars(cls)["__init__"] for cls in target.__mro__[:-1] if "__init__" in vars(cls)]
    found = Signature(set(), {}, open_ended=True)
    for function in functions or [target]:
        parameters = list_parameters(function)
        if functions:
            del parameters[0]  # self
        named = [p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
        if found.names and not named:
            break  # `**arguments` cannot be meant for a base that takes nothing
        found.names |= {p.name for p in named}
        hints = {p.name: type(p.default) for p in named if p.default not in (None, p.empty)}
        hints |= {p.name: p.annotation for p in named if p.annotation is not p.empty}
        found.hints = {name: hint for name, hint in hints.items() if type(hint) is not str} | found.hints
        found.open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters)
        if not found.open_ended:
            break
    return found


def list_parameters(function: Callable[..., Any]) -> list[inspect.Parameter]:
    """Return the parameters of a function; annotations that only type checkers understand stay strings."""
    try:
        # torch imports some names of `typing` only for type checkers
        return [*inspect.signature(function, locals=vars(typing), eval_str=True).parameters.values()]
    except Exception:  # whatever evaluating an annotation raises
        return [*inspect.signature(function).parameters.values()]


def is_tensor(hint: Any) -> bool:
    """Whether a type is torch's Tensor or a union with it, recognised without importing torch."""
    if any(is_tensor(argument) for argument in typing.get_args(hint)):
        return float not in typing.get_args(hint)  # a number will do, such as for a learning rate
    return getattr(hint, "__module__", "") == "torch" and getattr(hint, "__name__", "") == "Tensor"
