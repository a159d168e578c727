"""Every value of a config against the signature of what it is meant for, before anything is built."""

import inspect
import os
import sys
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from hydra._internal.utils import get_args_parser
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

import resume
from descent.errors import nearest

ROOT = Path(__file__).resolve().parents[1]
CONF, LOGS, DATASETS = ROOT / "conf", ROOT / "logs", ROOT / "datasets"
ROOT_TYPES = {  # of the fields that belong to no `_target_`
    "name": str,
    "folder": str,
    "seed": int,
    "threads": int | Literal["auto"],
    "loop": Literal["lean", "lightning"],
    "compile": bool,
    "monitor": str,
    "mode": Literal["min", "max"],
    "on_nan": Literal["stop", "skip"],
    "resume": bool | str | None,
    "init_from": str | None,
    "freeze": list[str],
    # of evaluate, predict and export
    "run": str | None,
    "weights": Literal["best", "last"],
    "input": str | None,
    "output": str | None,
    "keep": list[str],
    "split": Literal["train", "val", "test"],
    "format": Literal["onnx", "torch_export"],
    "batch_size": int,
    "device": str,
    "overwrite": bool,
    "allow": list[str],
}


class UsageError(ValueError):
    """Bad input, told in one line: `key=value: expected …; nearest: …`."""


def check(config: DictConfig, overrides: Mapping[str, str]) -> DictConfig:
    """Hold every value of the config against what it is meant for.

    Args:
        config: as composed.
        overrides: the command line's, by key.

    Returns:
        The config, without arguments that its targets do not take and that nobody asked for, such as
        those of the file's own loss after `loss._target_=torch.nn.SoftMarginLoss`.

    Raises:
        UsageError: something is unknown, or of another type than its target's signature says.
    """
    of_training = "run" not in config  # the other commands take a run, and build what its config says
    try:
        if of_training:
            config.name, config.folder = config.name, config.folder  # once: the name has the time in it
            resume.prepare(config)
        plain = OmegaConf.to_container(config, resolve=True)
    except OmegaConfBaseException as error:
        references = " ".join(f"{key}={value}" for key, value in overrides.items() if "${" in value)
        about = references or culprits(error.full_key or "config", overrides)
        raise UsageError(f"{about}: expected a value that exists ({first_line(error)})") from error
    assert isinstance(plain, dict)
    groups = [path.name for path in CONF.iterdir() if path.is_dir() and path.name != "experiment"]
    for group in groups if of_training else ():
        value = plain.get(group, "null")
        needed = group not in ("scheduler", "callbacks", "logger")  # which may be empty
        several = overrides.get(group, "").startswith("[")  # of which Hydra would make a mixture
        if not isinstance(value, dict) or several or (needed and "_target_" not in value):
            given = overrides.get(group, value)
            raise UsageError(f"{group}={given}: expected one of {', '.join(options(group))}")
        for name, entry in value.items() if group in ("callbacks", "logger") else ():
            if not isinstance(entry, dict) or "_target_" not in entry:
                raise UsageError(f"{group}.{name}={entry}: expected fields, one of them a _target_")
    for name, value in plain.items():
        key = str(name)
        if key in ROOT_TYPES:
            check_value(key, value, ROOT_TYPES[key])
        elif isinstance(value, dict):
            for extra in check_node(key, value, overrides):
                parent, _, argument = extra.rpartition(".")
                print(f"{extra} is left out: {OmegaConf.select(config, parent)._target_} does not take it")
                with open_dict(config):
                    del OmegaConf.select(config, parent)[argument]
    if not of_training:
        check_run(plain["run"])
        return config
    if not 0 <= plain["seed"] < 2**32:
        raise UsageError(f"seed={plain['seed']}: expected a whole number from 0 to 2**32 - 1")
    most = max(64, os.cpu_count() or 1)  # far beyond, starting them would end the process
    if plain["threads"] != "auto" and not 1 <= plain["threads"] <= most:
        raise UsageError(f"threads={plain['threads']}: expected auto, or a whole number from 1 to {most}")
    every = plain["trainer"].get("check_val_every_n_epoch")
    if every is not None and every < 1:
        raise UsageError(f"trainer.check_val_every_n_epoch={every}: expected a whole number of at least 1")
    check_accelerator(plain["trainer"]["accelerator"])
    return config


def monitors(config: DictConfig) -> dict[str, str]:
    """Every field of the config that names a metric to look at, by key."""
    nodes = {"": config, "scheduler.": config.scheduler} | {
        f"callbacks.{name}.": callback for name, callback in config.callbacks.items()
    }
    found = {f"{key}monitor": (node or {}).get("monitor") for key, node in nodes.items()}
    return {key: value for key, value in found.items() if value is not None}


def check_node(key: str, node: Mapping[str, Any], overrides: Mapping[str, str]) -> Iterable[str]:
    """Check a part of the config and all below it against the signature of its `_target_`.

    Yields the keys of arguments that the target does not take and the command line does not ask for.
    """
    for name, value in node.items():
        if isinstance(value, dict):
            yield from check_node(f"{key}.{name}", value, overrides)
    for name in ("_partial_", "_recursive_"):  # Hydra's own
        check_value(f"{key}.{name}", node.get(name, True), bool)
    if "_target_" not in node:
        return
    target = find(f"{key}._target_", node["_target_"])
    try:
        parameters = dict(inspect.signature(target).parameters)
    except ValueError as error:  # of some built-in types
        raise UsageError(
            f"{key}._target_={node['_target_']}: expected a class or function whose arguments are known"
        ) from error
    hints = hints_of(target)
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    if open_ended and isinstance(node.get("scheduler"), dict):  # Schedule passes the other arguments on to it
        scheduler = find(f"{key}.scheduler._target_", node["scheduler"].get("_target_"))
        parameters |= inspect.signature(scheduler).parameters
        # null is a length that Schedule fills in
        hints |= {name: hint | None for name, hint in hints_of(scheduler).items() if name not in hints}
        open_ended = False
    for name, value in node.items():
        if name.startswith("_"):
            continue
        if name not in parameters and not open_ended:
            if f"{key}.{name}" in overrides:
                expected = f"an argument of {node['_target_']}" + nearest(name, parameters)
                raise UsageError(f"{key}.{name}={overrides[f'{key}.{name}']}: expected {expected}")
            yield f"{key}.{name}"
        elif name in hints and not (isinstance(value, dict) and "_target_" in value):
            check_value(f"{key}.{name}", value, hints[name])


def check_value(key: str, value: Any, hint: Any) -> None:
    if not accepts(value, hint):
        shown = "null" if value is None else str(value).lower() if isinstance(value, bool) else value
        expected = expectation(hint)
        close = nearest(str(value), literals(hint))
        raise UsageError(f"{key}={shown}: expected {expected}{close}")


def check_flags(words: Sequence[str]) -> None:
    """One line about an unknown flag, for which argparse would print its usage."""
    known = [flag for action in get_args_parser()._actions for flag in action.option_strings]
    for word in words:
        flag = word.partition("=")[0]
        begun = [name for name in known if flag.startswith("--") and name.startswith(flag)]
        joined = not flag.startswith("--") and flag[:2] in known  # -cjob
        if flag.startswith("-") and flag not in known and not joined and len(begun) != 1:
            raise UsageError(
                f"{word}: expected key=value, or one of {', '.join(known)}{nearest(flag, known)}"
            )


def find(key: str, path: Any) -> Callable[..., Any]:
    """The class or function that a config names."""
    from pydoc import ErrorDuringImport, locate

    if not isinstance(path, str) or "." not in path:
        raise UsageError(
            f"{key}={path}: expected a class or function that can be imported, such as torch.nn.L1Loss"
        )
    try:
        found = locate(path)
    except ErrorDuringImport as error:
        raise UsageError(
            f"{key}={path}: expected a class or function that can be imported ({error})"
        ) from error
    if found is None:
        module, _, name = path.rpartition(".")
        close = nearest(name, [word for word in dir(locate(module)) if not word.startswith("_")])
        raise UsageError(f"{key}={path}: expected a class or function that can be imported{close}")
    if not callable(found):
        raise UsageError(f"{key}={path}: expected a class or function, not a {type(found).__name__}")
    return found


def check_run(run: str | None) -> None:
    if run is None:
        runs = sorted(LOGS.glob("**/config.yaml"), key=lambda file: file.stat().st_mtime)
        newest = f"; newest: {os.path.relpath(runs[-1].parent)}" if runs else ""
        raise UsageError(f"run=null: expected the folder of a run, logs/…{newest}")


def check_accelerator(value: Any) -> None:
    """Say what is there, where Lightning would end in a traceback."""
    from lightning.pytorch.accelerators import AcceleratorRegistry

    names = [*AcceleratorRegistry.available_accelerators(), "gpu", "auto"]
    there = [name for name in AcceleratorRegistry.available_accelerators() if available(name)]
    if value not in names:
        raise UsageError(
            f"trainer.accelerator={value}: expected one of {', '.join(names)}{nearest(str(value), names)}"
        )
    if value != "auto" and value not in there and not (value == "gpu" and {"cuda", "mps"} & set(there)):
        raise UsageError(
            f"trainer.accelerator={value}: expected what this machine has: {', '.join(there)}, or auto"
        )


def available(name: str) -> bool:
    from lightning.pytorch.accelerators import AcceleratorRegistry

    try:
        return bool(AcceleratorRegistry.get(name).is_available())
    except ModuleNotFoundError:  # xla, without its package
        return False


def options(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def culprits(key: str, overrides: Mapping[str, str], message: str = "", only_named: bool = False) -> str:
    """What the command line set below a key, `trainer.max_epochs=-5`; the key itself where it set nothing.

    Where the message names some of those fields, only they are told.
    """
    given = {name: value for name, value in overrides.items() if name == key or name.startswith(f"{key}.")}
    named = {name: value for name, value in given.items() if name.split(".")[-1] in message}
    return (
        " ".join(f"{name}={value}" for name, value in (named if only_named else named or given).items())
        or key
    )


def first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].strip() if lines else type(error).__name__


# ---- values against type hints -----------------------------------------------------------------------------


def hints_of(target: Callable[..., Any]) -> dict[str, Any]:
    """Type hints by argument; where there is none, the type of the default."""
    function = target.__init__ if inspect.isclass(target) else target
    module = vars(sys.modules[target.__module__])
    hints = {}
    for name, parameter in inspect.signature(target).parameters.items():
        hint = getattr(function, "__annotations__", {}).get(name, parameter.annotation)
        if isinstance(hint, str):
            try:
                hint = eval(hint, {**vars(typing), **module})
            except Exception:  # a name that only type checkers see
                continue
        if hint is inspect.Parameter.empty:
            if parameter.default in (None, inspect.Parameter.empty):
                continue
            hint = type(parameter.default)
        hints[name] = hint
    return hints


def accepts(value: Any, hint: Any) -> bool:
    """Whether a plain value (of YAML) can be passed where a hint asks for a type; unknown hints take all."""
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is None or hint is type(None):
        return value is None
    if origin in (Union, types.UnionType):
        return any(accepts(value, argument) for argument in arguments)
    if origin is Literal:
        return any(value == choice and type(value) is type(choice) for choice in arguments)
    if hint is bool:
        return isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)
    if hint is str or hint is Path:
        return isinstance(value, str)
    if origin is tuple and arguments[-1] is not Ellipsis:
        return (
            isinstance(value, list) and len(value) == len(arguments) and all(map(accepts, value, arguments))
        )
    if origin in (list, tuple, Sequence, Iterable):
        return isinstance(value, list) and all(accepts(item, arguments[0]) for item in value)
    if inspect.isclass(origin or hint) and (origin or hint) not in (object, list, dict, tuple, Any):
        return isinstance(value, dict)  # an object: something that is built from a `_target_`
    return True


def expectation(hint: Any) -> str:
    """A hint in words: `a number, or null`."""
    origin, arguments = get_origin(hint), get_args(hint)
    if words := literals(hint):
        return "one of " + ", ".join(dict.fromkeys(words)) + (", or null" if type(None) in arguments else "")
    names = {bool: "true or false", int: "a whole number", float: "a number", str: "text", type(None): "null"}
    if hint in names:
        return names[hint]
    if origin in (Union, types.UnionType):
        words = [expectation(a) for a in arguments if a in names or get_origin(a) is not None]
        return ", or ".join(dict.fromkeys(words)) or "an object"
    if origin is tuple and arguments[-1] is not Ellipsis:
        return f"a list of {len(arguments)} values"
    if origin in (list, tuple, Sequence, Iterable):
        return f"a list, each of its values {expectation(arguments[0])}"
    return f"an object of {getattr(hint, '__name__', hint)}"


def literals(hint: Any) -> list[str]:
    """All words that a hint allows."""
    if get_origin(hint) is Literal:
        return [str(choice) for choice in get_args(hint)]
    return [word for argument in get_args(hint) for word in literals(argument)]
