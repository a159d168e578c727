"""Builds the object that a node of the config describes: a target gets what its signature names."""

import inspect
import sys
import typing
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import Any

from descent.errors import ConfigError, blame, first_line, nearest, require

WORDS = ("_target_", "_partial_", "_args_")  # of a node, in addition to its arguments
FETCHED = ("download", "pretrained")  # arguments that make a target download something
DEPTH = 20  # of nested nodes: far more than any handwritten config needs


class Config(dict[str, Any]):
    """A resolved config: nested dicts whose keys are attributes too, such as `config.trainer.max_epochs`."""

    def __getattr__(self, name: str) -> Any:
        try:
            value = self[name]
        except KeyError as error:
            raise AttributeError(name) from error
        return Config(value) if type(value) is dict else value


def builder(config: Mapping[str, Any], allowed: Collection[str] | None = None) -> Callable[..., Any]:
    """Return `build`: `build("model", outputs=10)` makes what `config.model` describes.

    Parts that the module does not name, such as the model of a module that makes its own, are not built.
    """
    parts = {"model": "model", "loss": "criterion", "optimizer": "optimizer"}
    parts |= {"scheduler": "schedule", "metrics": "metrics"}
    named = read_signature(locate("module._target_", config["module"].get("_target_"), allowed)).names

    def build(key: str, **offers: Any) -> Any:
        if key in parts and parts[key] not in named:
            return None
        return build_node(key, config[key], offers, allowed)

    return build


def build_node(
    key: str, node: Any, offers: Mapping[str, Any] | None = None, allowed: Collection[str] | None = None
) -> Any:
    """Build what a node of plain values describes.

    A node with a `_target_` calls it with the node's fields, plus the offers that its signature names and the
    node does not set; `_partial_: true` returns a partial. A node without one becomes a dict of what its
    children describe, which get the same offers. Where children are grouped by words such as `classes` and
    `values`, only those of the offered task are built. A list is built item by item; anything else is
    returned unchanged. An offered tensor replaces the node's value. A config from elsewhere may use only the
    names in `allowed`.
    """
    offers = offers or {}
    if key.count(".") > DEPTH:
        raise ConfigError(key.partition(".")[0], "…", expected=f"at most {DEPTH} nodes within nodes")
    if isinstance(node, list):
        return [build_node(f"{key}.{index}", item, None, allowed) for index, item in enumerate(node)]
    if not isinstance(node, Mapping):
        return node
    if "_target_" not in node:
        if (task := offers.get("task")) is not None and (chosen := choose_by_task(key, node, task)) != node:
            return build_node(key, chosen, offers, allowed)
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
    kinds = {name for name in node if name in task.KINDS or name == task.kind}
    if not kinds:
        return node
    part = node.get(task.kind)
    if part is None and any("_target_" in node[kind] for kind in kinds):
        expected = f"a choice, because none is known for the task {task.kind or 'of this data'}"
        raise ConfigError(key, expected=expected)
    if part is not None and "_target_" in part:
        for name in node.keys() - kinds - part.keys():  # such as class weights
            expected = f"null, because the one of {task.kind} has none"
            require(not node[name], f"{key}.{name}", node[name], expected)
        return part
    return {**(part or {}), **{name: child for name, child in node.items() if name not in kinds}}


# ---- names and signatures ----------------------------------------------------------------------------------


def locate(key: str, name: object, allowed: Collection[str] | None = None) -> Callable[..., Any]:
    """Import the class or function that a config names, such as "torch.nn.Linear".

    `allowed` lists names, or modules whose own names, a config from elsewhere may use; None: the user's own.
    """
    if not isinstance(name, str) or "." not in name.strip("."):
        raise ConfigError(key, name, expected="a class or function with its module, such as torch.nn.L1Loss")
    module = name.rpartition(".")[0]
    trusted = allowed is None or name in allowed or module in allowed
    found = import_name(key, name) if trusted else None
    if trusted and allowed is not None and name not in allowed:  # an allowed module
        trusted = getattr(found, "__module__", "") == module
    if not trusted:
        expected = f"a name that conf/ contains, or that you type; trust it by allow=[{name}]"
        raise ConfigError(key, name, expected=expected)
    if not callable(found) or inspect.ismodule(found):
        raise ConfigError(key, name, expected=f"a class or function, not a {type(found).__name__}")
    return found


def import_name(key: str, name: str) -> Any:
    """Return what a dotted name stands for: something of a module, or of a class in one."""
    parts = name.split(".")
    wrong = ConfigError(key, name, expected="a class or function that can be imported")
    for count in range(len(parts) - 1, 0, -1):
        module = ".".join(parts[:count])
        try:
            found = import_module(module)
        except Exception as error:  # a user's module may raise anything when it is imported
            absent = isinstance(error, ModuleNotFoundError) and f"{module}.".startswith(f"{error.name}.")
            if absent and count > 1:
                continue  # it may be a class, and the name a method of it
            wrong.expected += f" ({first_line(error)})"
            raise wrong from error
        for part in parts[count:]:
            if not hasattr(found, part):
                near = nearest(part, [word for word in dir(found) if not word.startswith("_")])
                wrong.nearest = f".{near}".join(name.rsplit(f".{part}", 1)) if near else ""
                raise wrong
            found = getattr(found, part)
        return found
    raise AssertionError("a name has a module")


@dataclass
class Signature:
    """The arguments of a class or function."""

    names: set[str]  # of all its arguments
    hints: dict[str, Any]  # the type hint of each argument that has one
    open_ended: bool  # whether it also accepts any other argument


def read_signature(target: Callable[..., Any]) -> Signature:
    """Return a target's arguments, including its base's if a class passes `**arguments` on."""
    functions: list[Callable[..., Any]] = [target]
    if inspect.isclass(target) and "__new__" not in vars(target):
        own = [vars(cls)["__init__"] for cls in target.__mro__[:-1] if "__init__" in vars(cls)]
        # `**arguments` cannot be meant for a base that takes nothing
        functions = [f for f in own if list_parameters(f)] or [target]
    names: set[str] = set()
    hints: dict[str, Any] = {}
    open_ended = True
    for function in functions:
        parameters = list_parameters(function)
        named = {n: p for n, p in parameters.items() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}
        if names and not named:
            break  # a base that takes nothing is not the receiver
        names |= named.keys()
        hints = dict(read_hints(function, named)) | hints
        open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
        if not open_ended:
            break
    return Signature(names, hints, open_ended)


def list_parameters(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """Return the parameters of a class, function or `__init__`, without `self`."""
    parameters = dict(inspect.signature(function).parameters)
    if getattr(function, "__name__", "") == "__init__":
        parameters.pop(next(iter(parameters)), None)
    return parameters


def read_hints(
    function: Callable[..., Any], named: Mapping[str, inspect.Parameter]
) -> Iterator[tuple[str, Any]]:
    """Yield the type of each argument; without a hint, the type of the default."""
    inner = inspect.unwrap(function.__init__ if inspect.isclass(function) else function)
    module = vars(sys.modules[inner.__module__]) if getattr(inner, "__module__", None) in sys.modules else {}
    for name, parameter in named.items():
        hint = getattr(inner, "__annotations__", {}).get(name, parameter.annotation)
        if isinstance(hint, str):
            try:
                hint = eval(hint, {**vars(typing), **module})
            except Exception:  # a name that only type checkers import
                continue
        if hint is not inspect.Parameter.empty:
            yield name, hint
        elif parameter.default not in (None, inspect.Parameter.empty):
            yield name, type(parameter.default)


def is_tensor(hint: Any) -> bool:
    """Whether a type is torch's Tensor or a union with it, recognised without importing torch."""
    if any(is_tensor(argument) for argument in typing.get_args(hint)):
        return float not in typing.get_args(hint)  # a number will do, such as for a learning rate
    return getattr(hint, "__module__", "") == "torch" and getattr(hint, "__name__", "") == "Tensor"
