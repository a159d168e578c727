"""From the words of a sweep to its plan: what varies, where it goes, and that every word of it exists."""

import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict

from descent.cli.check import check
from descent.cli.compose import explain, list_fields, resolve_references
from descent.cli.job import raise_first
from descent.cli.paths import CONF, LOGS, list_groups
from descent.cli.resuming import list_targets
from descent.cli.words import CommandLine, by_key, parse
from descent.errors import ConfigError, require
from descent.run.folder import RunFolder
from descent.run.resume import is_word, key_of, merge_words, require_harmless
from descent.sweep.plan import PLAN, Plan, find_plan, hold, read_plan

OWN = ("folder", "name", "resume", "jobs")  # words that are about the sweep and not about its runs
IMPORTS = (  # what a run needs, beside what its config names
    "lightning.pytorch", "torch.utils.tensorboard.summary", "tensorboard.plugins.hparams.plugin_data_pb2",
    "descent.callbacks.recorder", "descent.callbacks.typed_changes", "descent.metrics", "descent.losses",
    "descent.run.checkpoints", "descent.run.initial_weights",
)  # fmt: skip


def plan_sweep(line: CommandLine, words: Sequence[str]) -> Plan | None:
    """What a command line asks to be run, or None where that is a single run.

    A sweep is what `-m` says, or a file of the group experiment by `hydra.mode: MULTIRUN`, or the folder of
    one that is resumed.

    Raises:
        ConfigError: a word that does not exist, or a folder that holds something else.
    """
    if any(line.flags[flag] for flag in ("--cfg", "--info", "--run", "--shell-completion")):
        return None
    own = {key_of(word): parse(word).value() for word in words if key_of(word) in OWN}
    before = find_saved(own.get("resume"))
    saved = [*before.words, *(f"{key}={','.join(v)}" for key, v in before.values.items())] if before else []
    flag = bool(line.flags["--multirun"]) or before is not None
    if not flag and not {"experiment", "hydra.mode"} & by_key(words).keys():
        alone = "-m beside it, and several values of a word"
        require("jobs" not in own, "jobs", own.get("jobs"), alone)
        return None
    task = [word for word in merge_words(saved, words) if key_of(word) not in OWN]
    fixed, values, mode = expand_values(task)
    if not flag and mode != RunMode.MULTIRUN:
        return None
    if not line.flags["--multirun"] and mode == RunMode.MULTIRUN:
        fixed = merge_words(fixed, ["hydra.mode=RUN"])
    if own.get("folder"):
        folder = Path(str(own["folder"])).expanduser()
    elif before:
        folder = before.folder
    else:
        folder = LOGS / f"{own.get('name') or name_sweep(fixed, values)}-{datetime.now():%Y%m%d-%H%M%S}"
    require("${" not in str(folder), "folder", folder, "the folder of the sweep; its runs get folders in it")
    plan = Plan(folder.resolve(), fixed, values)
    settle(plan, own.get("resume"), before)
    check_points(plan, by_key(words), before)
    return plan


def find_saved(resume: object) -> Plan | None:
    """The sweep that `resume=` names, if it names one.

    Raises:
        ConfigError: its words are none of a run.
    """
    if not isinstance(resume, str):
        return None
    folder = Path(resume).expanduser().resolve()
    if not (folder / PLAN).exists():
        return None
    plan = read_plan(folder)
    keys = [*list_fields("train"), "experiment"]
    for word in (*plan.words, *(f"{key}={value}" for key, v in plan.values.items() for value in v)):
        if word != "hydra.mode=RUN" and not is_word(word, keys, list_groups()):
            raise ConfigError(str(folder / PLAN), expected=f"words of a run, and no {word[:200]!r}")
    return plan


def expand_values(words: Sequence[str]) -> tuple[list[str], dict[str, list[str]], RunMode | None]:
    """Words that all runs have, the values of each key that varies, and how Hydra would run them.

    Raises:
        ConfigError: a word that does not exist, or a range of which no values follow.
    """
    sweeps = [word for word in words if is_sweep(word)]
    composed = compose([word for word in words if word not in sweeps])
    more = [f"{key}={value}" for key, value in (composed.hydra.sweeper.get("params") or {}).items()]
    fixed: dict[str, str] = {}
    values: dict[str, list[str]] = {}
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        parser = OverridesParser.create(GlobalHydra.instance().config_loader())
    for word in merge_words(more, words):
        override = parser.parse_override(word)
        key = override.get_key_element()
        if not override.is_sweep_override():
            fixed[key] = word
        elif not override.is_discrete_sweep():
            expected = "values, such as 0.1,0.2; or search=… beside it, which draws from a range"
            raise ConfigError(override.key_or_group, word.partition("=")[2], expected=expected)
        else:
            values[key] = list(dict.fromkeys(override.sweep_string_iterator()))
    return list(fixed.values()), values, composed.hydra.mode


def is_sweep(word: str) -> bool:
    """Whether a word has several values."""
    return parse(word).is_sweep_override()


def name_sweep(fixed: Sequence[str], values: Mapping[str, Sequence[str]]) -> str:
    """`loss-optimizer-seed-max_epochs=3`: what varies, and then what else was typed."""
    varying = [key.lstrip("+~").rpartition(".")[2] for key in values]
    words = [word for word in fixed if not key_of(word).startswith("hydra")]
    typed = [word.partition("=")[2] if key_of(word) == "experiment" else word.rpartition(".")[2] for word in words]
    return re.sub(r"[^\w.=+-]+", "_", "-".join([*varying, *typed]))[:100] or "sweep"


def settle(plan: Plan, resume: object, before: Plan | None) -> None:
    """Go on with the sweep that is there where that was asked for, and make sure that it is the same.

    Raises:
        ConfigError: it is another one, or there is none, or one that was not to be resumed.
    """
    again = int(os.environ.get("SLURM_RESTART_COUNT") or 0) > 0
    if before is None and (plan.folder / PLAN).exists():
        before = read_plan(plan.folder)
        expected = "a folder without a sweep in it, or resume=true, which goes on with that one"
        require(bool(resume) or again, "folder", RunFolder(plan.folder), expected)
    elif before is None and resume is True:
        before = find_plan(plan, plan.folder.parent)
    if before is None and not resume:
        return
    if before is None:
        expected = f"a sweep of these words in {RunFolder(plan.folder.parent)}; there is none"
        raise ConfigError("resume", resume, expected=expected)
    if not plan.is_like(before):
        was = " ".join([*before.words, *(f"{key}={','.join(v)}" for key, v in before.values.items())])
        raise ConfigError("resume", RunFolder(before.folder), expected=f"the sweep of the same words: {was}")
    plan.folder = before.folder
    plan.add(before)


def check_points(plan: Plan, typed: Mapping[str, str], before: Plan | None) -> None:
    """Compose and check a run with each value of each key.

    Raises:
        ConfigError: a word that does not exist, or a value of the wrong kind; or, where the words are those
            of a folder, one that a run may not name without its being typed.
    """
    from descent.cli.machine_limits import check_machine

    first = {key: values[0] for key, values in plan.values.items()}
    chosen = [first, *({**first, key: v} for key, values in plan.values.items() for v in values[1:])]
    for values in chosen:
        point = plan.point(values)
        composed = compose([*point.words, f"folder='{point.folder.path}'"])
        overrides = by_key(point.words)
        plan.config = resolve_references(composed.config, overrides)
        raise_first(check(plan.config, overrides, list_fields("train")).problems)
        raise_first(check_machine(plan.config))
        if before is not None:
            require_harmless(point.folder, plan.config, typed, list_targets())


def compose(words: Sequence[str]) -> Any:
    ...
