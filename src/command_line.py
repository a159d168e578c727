"""From a command line to a checked config: the words, the help, and errors told in one line.

`command(job, "train")` composes `conf/train.yaml` with the words of the command line, holds every value
against the signature of what it is meant for, and calls `job(config)`. Hydra stays in this file and in
the commands; importing it costs no torch, so that `--help` and `--cfg job` answer at once.
"""

import inspect
import os
import re
import signal
import sys
import traceback
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from math import isfinite
from pathlib import Path
from typing import Any, Literal, NoReturn, Union, get_args, get_origin

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import (
    ConfigCompositionException,
    HydraException,
    InstantiationException,
    MissingConfigException,
    OverrideParseException,
)
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

import resume
from descent.errors import ConfigError, Stopped, nearest

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


def command(job: Callable[[DictConfig], None], config_name: str) -> None:
    """Run `job` on the composed config; bad input ends the process with one line and exit code 2.

    HYDRA_FULL_ERROR=1 shows its traceback. An error that is not about input always keeps its own.
    """
    full_error = os.environ.get("HYDRA_FULL_ERROR")
    os.environ["HYDRA_FULL_ERROR"] = "1"  # so that Hydra raises what it would print on several lines

    def checked_job(config: DictConfig) -> None:
        os.environ["HYDRA_FULL_ERROR"] = full_error or ""  # as it was, for the processes that a run starts
        overrides = dict(o.lstrip("+").split("=", 1) for o in given_words() if "=" in o)
        try:
            job(check(config, overrides))
        except Stopped as stopped:
            print(stopped, file=sys.stderr)
            sys.exit(stopped.code)
        except Exception as error:
            if full_error == "1" or (line := line_about(error, config, overrides)) is None:
                raise
            fail(line)

    register_resolvers()
    if {"--help", "-h"} & set(sys.argv[1:]):  # Hydra would list each group's files twice to print the same
        print(OmegaConf.load(CONF / f"{config_name}.yaml").hydra.help.template)
        return
    leave_on_signals()
    try:
        check_flags(sys.argv[1:])
        sys.argv[1:] = resume.expand(sys.argv[1:])
        hydra.main(version_base="1.3", config_path=str(CONF), config_name=config_name)(checked_job)()
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        if full_error == "1" or (line := line_about_composition(error, config_name)) is None:
            raise
        fail(line)


def leave_on_signals() -> None:
    """Let Ctrl-C and SIGTERM end the process with 130 and 143, cleaning up and without a traceback.

    While a run trains, its checkpoint callback takes over, and ends it between two steps.
    """

    def leave(number: int, frame: types.FrameType | None) -> NoReturn:
        sys.exit(128 + number)

    for number, usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGTERM, signal.SIG_DFL)):
        if signal.getsignal(number) == usual:  # nohup and some shells have them ignored
            signal.signal(number, leave)


def given_words() -> list[str]:
    """The words of this run's command line, in a sweep those of the one run."""
    words = OmegaConf.to_container(HydraConfig.get().overrides.task)  # unresolved: a word may hold ${…}
    assert isinstance(words, list)
    return words


def fail(line: str) -> NoReturn:
    print(line, file=sys.stderr)
    sys.exit(2)


# ---- what the config may ask for ---------------------------------------------------------------------------


def register_resolvers() -> None:
    """The functions that conf/ calls, such as `${choices:}` and `${run_folder:name}`."""
    for resolver in (choices, run_name, run_folder, logs, datasets):
        OmegaConf.register_new_resolver(resolver.__name__, resolver, replace=True)


def options(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def choices() -> str:
    """For `--help`: each word of each group, with the comment that its file begins with."""
    defaults = {
        k: v
        for item in OmegaConf.load(CONF / "train.yaml").defaults
        if item != "_self_"
        for k, v in item.items()
    }
    lines = []
    for group, default in defaults.items():
        lines += ["", f"{group}  [{default}]" if default else group]
        for word in options(group):
            comments = (CONF / group / f"{word}.yaml").read_text(encoding="utf-8").splitlines()
            lines.append(f"  {word:<22}{next(c for c in comments if '@package' not in c).lstrip('# ')}")
    return "\n".join(lines) + "\n"


def run_name() -> str:
    """`mae-sgd-mlp-digits`, followed by the values that the command line sets, such as `lr=0.1`."""
    chosen = dict(HydraConfig.get().runtime.choices)
    values = []
    for word in given_words():
        key, _, value = word.lstrip("+~").partition("=")
        group, _, field = key.rpartition(".")
        if field == "_target_" and group in chosen:
            chosen[group] = value.rpartition(".")[2]
        elif key not in chosen and key not in ("name", "folder", "resume"):
            values.append(f"{field}={value}")
    words = [
        chosen[group] for group in ("experiment", "loss", "optimizer", "model", "data") if chosen.get(group)
    ]
    return re.sub(r"[^\w.=+-]+", "_", "-".join([*words, *values]))[:120]


def run_folder(name: str) -> str:
    return str(LOGS / f"{name}-{datetime.now():%Y%m%d-%H%M%S}")


def logs() -> str:
    return str(LOGS)


def datasets() -> str:
    return str(DATASETS)


def description(config: DictConfig) -> dict[str, str]:
    """The texts that say what a run is: its composed config, resolved, and its command line."""
    words = OmegaConf.to_yaml(OmegaConf.create(resume.without_resume(given_words())))
    return {"config.yaml": OmegaConf.to_yaml(config, resolve=True), "overrides.yaml": words}


def hyperparameters(config: DictConfig) -> dict[str, Any]:
    """What runs are compared by, flat: each choice, and every value that is not about files or looks."""

    def flat(node: Mapping[str, Any], prefix: str) -> Iterable[tuple[str, Any]]:
        for name, value in node.items():
            if isinstance(value, Mapping):
                yield from flat(value, f"{prefix}{name}.")
            elif not name.startswith("_") and value is not None:
                yield prefix + name, value

    chosen = HydraConfig.get().runtime.choices
    plain = OmegaConf.to_container(config, resolve=True)
    assert isinstance(plain, dict)
    groups = ("loss", "optimizer", "scheduler", "model", "data")
    values = {group: chosen[group] for group in groups}
    for group in groups:
        values |= flat(plain[group], f"{group}.")
    trainer = ("max_epochs", "precision", "accumulate_grad_batches", "gradient_clip_val")
    return {**values, **{f"trainer.{k}": plain["trainer"][k] for k in trainer}, "seed": plain["seed"]}


# ---- checks ------------------------------------------------------------------------------------------------


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
            resume.prepare(config, given_words)
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
    if plain["threads"] != "auto" and plain["threads"] < 1:
        raise UsageError(f"threads={plain['threads']}: expected auto, or a whole number of at least 1")
    check_accelerator(plain["trainer"]["accelerator"])
    return config


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


# ---- errors in one line ------------------------------------------------------------------------------------


def line_about(error: Exception, config: DictConfig, overrides: Mapping[str, str]) -> str | None:
    """One line about bad input that showed while the job ran; None for any other error."""
    from lightning.pytorch.utilities.exceptions import MisconfigurationException

    from descent.errors import ConfigError

    if isinstance(error, UsageError):
        return str(error)
    if isinstance(error, InstantiationException):
        key, cause = str(error).rpartition("full_key: ")[2].strip(), error.__cause__
        named = str(cause).partition("=")[0]
        if isinstance(cause, ConfigError):
            return f"{key}.{cause}" if named in (OmegaConf.select(config, key) or {}) else str(cause)
        about = culprits(key, overrides, first_line(cause or error))
        if isinstance(cause, MisconfigurationException) or about != key:
            return f"{about}: expected a value that it takes ({first_line(cause or error)})"
        return None
    if isinstance(error, ConfigError):
        key, _, rest = str(error).partition(": ")
        return f"{culprits(key, overrides, rest)}: {rest}" if key in config else str(error)
    about = culprits("trainer", overrides, first_line(error), only_named=True)
    # Lightning raises ValueError for some of its arguments
    if isinstance(error, MisconfigurationException) or (isinstance(error, ValueError) and about != "trainer"):
        return f"{about}: expected a value that it takes ({first_line(error)})"
    if isinstance(error, RuntimeError | OverflowError) and raised_in(error, "torch", "optim"):
        about = culprits("optimizer", overrides)  # a number too large for its arithmetic
        return None if about == "optimizer" else f"{about}: expected values it can use ({first_line(error)})"
    return None


def raised_in(error: BaseException, *folders: str) -> bool:
    """Whether the line that raised an error is in a file below these folders."""
    frames = traceback.extract_tb(error.__traceback__)
    return bool(frames) and "/".join(folders) in Path(frames[-1].filename).as_posix()


def line_about_composition(error: Exception, config_name: str) -> str | None:
    """One line about words that Hydra could not compose a config from; None for any other error."""
    if isinstance(error, ConfigError | UsageError):
        return str(error)
    if isinstance(error, MissingConfigException):
        group, _, word = str(error.missing_cfg_file).rpartition("/")
        known = [option for option in error.options or () if "." not in option]
        return f"{group}={word}: expected one of {', '.join(known)}{nearest(word, known)}"
    if isinstance(error, OverrideParseException):
        return f"{error.override}: expected key=value ({first_line(error)})"
    if isinstance(error, ConfigCompositionException):
        key = re.search(r"'([^']+)'", str(error))
        if key is None:
            return first_line(error)
        wrong = key.group(1)
        given = next((a for a in sys.argv[1:] if a.lstrip("+~").partition("=")[0] == wrong), wrong)
        return f"{given}: expected a key of the config{nearest_key(wrong, config_name)}"
    if isinstance(error, ValueError) and "Config group override" in str(error):
        groups = [a for a in sys.argv[1:] if options(a.partition("=")[0])]
        wrong = next(
            (a for a in groups if a.partition("=")[2] not in options(a.partition("=")[0])), groups[0]
        )
        return f"{wrong}: expected one of {', '.join(options(wrong.partition('=')[0]))}"
    return first_line(error) if isinstance(error, HydraException | OmegaConfBaseException) else None


def nearest_key(wrong: str, config_name: str) -> str:
    """The key most like a wrong one, in the config that the choices of this command line give."""

    def keys(node: Mapping[Any, Any], prefix: str = "") -> Iterable[str]:
        for name, value in node.items():
            yield prefix + name
            if isinstance(value, Mapping):
                yield from keys(value, f"{prefix}{name}.")

    words = [a for a in sys.argv[1:] if a.partition("=")[2] in options(a.partition("=")[0])]
    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        config = OmegaConf.to_container(hydra.compose(config_name, words))
    assert isinstance(config, dict)
    known = [key for key in keys(config) if "_target_" not in key]
    if hint := nearest(wrong, known):
        return hint
    # `lr` for `optimizer.lr`: the right name, without its group
    close = [key for key in known if key.endswith("." + wrong)]
    return f"; nearest: {close[0]}" if close else ""


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
