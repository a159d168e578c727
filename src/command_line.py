"""From a command line to a checked config: the words, the help, and errors told in one line.

`command(job, "train")` composes `conf/train.yaml` with the words of the command line, has every value
checked (`checks`), and calls `job(config)`. Importing this costs no torch, so that `--help` and `--cfg job`
answer at once.
"""

import os
import re
import signal
import sys
import traceback
import types
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import (
    ConfigCompositionException,
    HydraException,
    InstantiationException,
    MissingConfigException,
    OverrideParseException,
)
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

import resume
from checks import CONF, DATASETS, LOGS, UsageError, check, check_flags, culprits, first_line, options
from descent.errors import ConfigError, Stopped, nearest, of_added_code


def command(job: Callable[[DictConfig], None], config_name: str) -> None:
    """Run `job` on the composed config; bad input ends the process with one line and exit code 2.

    HYDRA_FULL_ERROR=1 shows its traceback. An error that is not about input always keeps its own.
    """
    full_error = os.environ.get("HYDRA_FULL_ERROR")
    os.environ["HYDRA_FULL_ERROR"] = "1"  # so that Hydra raises what it would print on several lines

    def checked_job(config: DictConfig) -> None:
        os.environ["HYDRA_FULL_ERROR"] = full_error or ""  # as it was, for the processes that a run starts
        overrides = dict(o.lstrip("+").split("=", 1) for o in resume.given_words() if "=" in o)
        try:
            job(check(config, overrides))
        except Stopped as stopped:
            if str(stopped):  # of several processes, those that have nothing to add say nothing
                print(stopped, file=sys.stderr)
            sys.exit(stopped.code)
        except Exception as error:
            if full_error != "1" and (line := line_about(error, config, overrides)) is not None:
                fail(line)
            if isinstance(error, InstantiationException) and error.__cause__ is not None:
                raise error.__cause__ from None  # Hydra prints its own errors without a traceback
            raise

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


def fail(line: str) -> NoReturn:
    print(line, file=sys.stderr)
    sys.exit(2)


# ---- what the config may ask for ---------------------------------------------------------------------------


def register_resolvers() -> None:
    """The functions that conf/ calls, such as `${choices:}` and `${run_folder:name}`."""
    for resolver in (choices, run_name, run_folder, logs, datasets):
        OmegaConf.register_new_resolver(resolver.__name__, resolver, replace=True)


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
    for word in resume.given_words():
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
    words = OmegaConf.to_yaml(OmegaConf.create(resume.without_resume(resume.given_words())))
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


# ---- errors in one line ------------------------------------------------------------------------------------


def line_about(error: Exception, config: DictConfig, overrides: Mapping[str, str]) -> str | None:
    """One line about bad input that showed while the job ran; None for any other error."""
    from lightning.pytorch.utilities.exceptions import MisconfigurationException

    if isinstance(error, UsageError):
        return str(error)
    if isinstance(error, InstantiationException):
        key, cause = str(error).rpartition("full_key: ")[2].strip(), error.__cause__
        named = str(cause).partition("=")[0]
        if isinstance(cause, ConfigError):
            return f"{key}.{cause}" if named in (OmegaConf.select(config, key) or {}) else str(cause)
        about = culprits(key, overrides, first_line(cause or error))
        if cause is not None and of_added_code(cause):
            return None
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
    fields = {key: value for key, value in overrides.items() if key.startswith("loss.")}
    if isinstance(error, RuntimeError) and fields and through_a_loss(error):
        about = culprits("loss", fields, first_line(error))
        return f"{about}: expected values it can use ({first_line(error)})"
    if isinstance(error, RuntimeError | OverflowError) and raised_in(error, "torch", "optim"):
        about = culprits("optimizer", overrides)  # a number too large for its arithmetic
        return None if about == "optimizer" else f"{about}: expected values it can use ({first_line(error)})"
    return None


def raised_in(error: BaseException, *folders: str) -> bool:
    """Whether the line that raised an error is in a file below these folders."""
    frames = traceback.extract_tb(error.__traceback__)
    return bool(frames) and "/".join(folders) in Path(frames[-1].filename).as_posix()


def through_a_loss(error: BaseException) -> bool:
    """Whether an error came up in one of torch's losses."""
    files = [Path(frame.filename).as_posix() for frame in traceback.extract_tb(error.__traceback__)]
    return any(file.endswith("torch/nn/modules/loss.py") for file in files)


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
