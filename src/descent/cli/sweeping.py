"""From the words of a sweep to its plan: what varies, where it goes, and that every word of it exists."""

import math
import os
import re
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
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

from descent.cli.build import build_node
from descent.cli.check import check
from descent.cli.compose import explain, list_fields, resolve_references
from descent.cli.job import raise_first
from descent.cli.launching import launch
from descent.cli.paths import CONF, LOGS, list_groups
from descent.cli.resuming import list_targets, require_closed
from descent.cli.words import CommandLine, by_key, parse, quote_literally
from descent.errors import ConfigError, require
from descent.run.folder import RunFolder
from descent.run.resume import is_word, key_of, merge_words, require_harmless
from descent.sweep.plan import PLAN, Plan, Source, find_plan, hold, read_plan
from descent.sweep.search import RATE, Range, expand_ranges
from descent.sweep.workers import Limits

OWN = ("folder", "name", "resume", "jobs", "trials", "search")  # about a sweep, and not about its runs
IMPORTS = (  # what a run needs, beside what its config names
    "lightning.pytorch", "torch.utils.tensorboard.summary", "tensorboard.plugins.hparams.plugin_data_pb2",
    "descent.callbacks.recorder", "descent.callbacks.typed_changes", "descent.metrics", "descent.losses",
    "descent.run.checkpoints", "descent.run.initial_weights",
)  # fmt: skip


@dataclass
class Sweep:
    """A sweep that has proved good.

    Attributes:
        plan: what is to be run.
        config: of one of the runs, plain values.
        jobs: runs at a time; None for as many as fit.
        space: the values of what varies, or the range that a search draws from.
        trials: of a search, in all.
        launcher: words to Hydra's launcher; empty where runs are started here.
    """

    plan: Plan
    config: dict[str, Any]
    jobs: int | None
    space: dict[str, Range | list[str]]
    trials: int
    launcher: list[str]


def plan_sweep(line: CommandLine, words: Sequence[str]) -> Sweep | None:
    """Return what a command line asks to be run, or None where that is a single run.

    A sweep is what `-m` says, or a file of the group experiment by `hydra.mode: MULTIRUN`, or the folder of
    one that is resumed.

    Raises:
        ConfigError: a word that does not exist, or a folder that holds something else.
    """
    if any(line.flags[flag] for flag in ("--cfg", "--info", "--run", "--shell-completion")):
        return None
    if line.flags["--config-dir"]:
        place = Path(line.flags["--config-dir"]).expanduser().resolve()
        words = [*words, f"hydra.searchpath=[{quote_literally(f'file://{place}')}]"]
    own = {key_of(word): parse(word).value() for word in words if is_own(word)}
    before = find_saved(own.get("resume"), by_key(words))
    flag = bool(line.flags["--multirun"]) or before is not None
    if not flag and not {"experiment", "hydra.mode"} & by_key(words).keys():
        for key in ("jobs", "search", "trials"):
            require(key not in own, key, own.get(key), "-m beside it, and several values of a word")
        return None
    launcher = [word for word in words if re.match(r"hydra[./]launcher\b", key_of(word))]
    known = merge_words(before.typed() if before else [], words)
    task = [word for word in known if not is_own(word) and word not in launcher]
    fixed, space, mode = expand_values(task, before.values if before else {})
    if not flag and mode != RunMode.MULTIRUN:
        return None
    if not line.flags["--multirun"] and mode == RunMode.MULTIRUN:
        fixed = merge_words(fixed, ["hydra.mode=RUN"])
    name = own.get("name") or name_sweep(fixed, space)
    require(".." not in Path(str(name)).parts, "name", name, "a name that leads nowhere else")
    if own.get("folder"):
        folder = Path(str(own["folder"])).expanduser()
    elif before:
        folder = before.folder
    else:
        folder = LOGS / f"{name}-{datetime.now():%Y%m%d-%H%M%S}"
    require("${" not in str(folder), "folder", folder, "the folder of the sweep; its runs get folders in it")
    search = read_search([word for word in words if key_of(word).partition(".")[0] == "search"], before)
    if launcher and search.get("reduction"):
        expected = "null beside a launcher, whose runs cannot be ended early"
        raise ConfigError("search.reduction", search["reduction"], expected=expected)
    plan = make_plan(folder.resolve(), fixed, space, search)
    settle(plan, own.get("resume"), before)
    config = check_points(plan, space, by_key(words), before)
    jobs, trials = (own.get(key, config[key]) for key in ("jobs", "trials"))
    enough = jobs == "auto" or (type(jobs) is int and jobs >= 1)
    require(enough, "jobs", jobs, "auto, or how many runs at a time, at least 1")
    require(type(trials) is int and trials >= 1, "trials", trials, "how many runs a search makes, at least 1")
    return Sweep(plan, config, None if jobs == "auto" else jobs, space, trials, launcher)


def make_plan(
    folder: Path, fixed: Sequence[str], space: dict[str, Range | list[str]], search: dict[str, Any]
) -> Plan:
    """Return the plan of what a search draws from, or of every combination.

    Raises:
        ConfigError: a range without a search, or a search without anything to draw from.
    """
    if "epochs" in search:  # lr_range
        space.setdefault(RATE, Range(search["low"], search["high"], log=True, whole=False))
        fixed = merge_words(fixed, [f"trainer.max_epochs={search['epochs']}"])
    ranges = {key: part.text for key, part in space.items() if isinstance(part, Range)}
    plan = Plan(folder, list(fixed), expand_ranges(space, search.get("steps", 2)), search)
    if plan.has_trials():
        require(bool(space), "search", search["sampler"], "words with several values, or with a range")
        plan.values |= {key: [text] for key, text in ranges.items()}
    for key, text in ranges.items():
        expected = "values, such as 0.1,0.2; or search=… beside it, which draws from a range"
        require(bool(search), key, text, expected)
    return plan


def is_own(word: str) -> bool:
    """Return whether a word is about the sweep, and not about its runs."""
    return key_of(word).partition(".")[0] in OWN


def read_search(words: Sequence[str], before: Plan | None) -> dict[str, Any]:
    """Return the fields of the group search, as typed or as of the sweep that goes on; empty without one.

    Raises:
        ConfigError: a word that does not exist, or a value of the wrong kind.
    """
    if not words and before is not None:
        return before.search
    config, _ = compose(words)
    plain = resolve_references(config, by_key(words))
    raise_first(check(plain, by_key(words), list_fields("train")).problems)
    if plain["search"]:
        build_node("search", config.search, {})
    return {key: value for key, value in plain["search"].items() if key != "_target_"}


def find_saved(resume: object, typed: Collection[str]) -> Plan | None:
    """Return the sweep that `resume=` names, if it names one.

    Args:
        resume: as typed.
        typed: keys that the command line sets.

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
        if not is_word(word, keys, list_groups()):
            raise ConfigError(str(folder / PLAN), expected=f"words of a run, and no {word[:200]!r}")
        require_closed([word], folder / PLAN, typed)
    return plan


def expand_values(
    words: Sequence[str], varying: Collection[str]
) -> tuple[list[str], dict[str, Range | list[str]], RunMode | None]:
    """Return words that all runs have, the values or the range of each key that varies, and Hydra's mode.

    Args:
        words: as typed.
        varying: keys that vary, whatever is typed.

    Raises:
        ConfigError: a word that does not exist.
    """
    _, own = compose([word for word in words if not parse(word).is_sweep_override()])
    more = [f"{key}={value}" for key, value in (own.sweeper.get("params") or {}).items()]
    fixed: dict[str, str] = {}
    values: dict[str, Range | list[str]] = {key: [] for key in varying}
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        parser = OverridesParser.create(GlobalHydra.instance().config_loader())
    for word in merge_words(more, words):
        override = parser.parse_override(word)
        key = override.get_key_element()
        if not override.is_sweep_override() and key in values:
            values[key] = [override.get_value_element_as_str()]
        elif not override.is_sweep_override():
            fixed[key] = word
        elif not override.is_discrete_sweep():
            values[key] = read_range(key, word.partition("=")[2], override.value())
        else:
            values[key] = list(dict.fromkeys(override.sweep_string_iterator()))
    return list(fixed.values()), values, own.mode


def read_range(key: str, text: str, interval: Any) -> Range:
    """Return an interval of Hydra's, such as `tag(log,interval(1e-4,1))` or `int(interval(1,8))`."""
    log, whole = "log" in interval.tags, isinstance(interval.start, int)
    least = 0 if log else -math.inf
    require(least < interval.start < interval.end, key, text, "an interval from a lower to a higher number")
    return Range(interval.start, interval.end, log, whole, text)


def name_sweep(fixed: Sequence[str], values: Collection[str]) -> str:
    """Return `loss-optimizer-seed-max_epochs=3`: what varies, and then what else was typed."""
    varying = [key.lstrip("+~").rpartition(".")[2] for key in values]
    words = [word for word in fixed if not key_of(word).startswith("hydra")]
    typed = [
        word.partition("=")[2] if key_of(word) == "experiment" else word.rpartition(".")[2] for word in words
    ]
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
        expected = f"the sweep of the same words: {' '.join(before.typed())}"
        raise ConfigError("resume", RunFolder(before.folder), expected=expected)
    plan.folder = before.folder
    plan.add(before)


def check_points(
    plan: Plan, space: Mapping[str, Range | list[str]], typed: Mapping[str, str], before: Plan | None
) -> dict[str, Any]:
    """Compose and check a run with each value of each key, and return the config of the last one.

    Raises:
        ConfigError: a word that does not exist, or a value of the wrong kind; or, where the words are those
            of a folder, one that a run may not name without its being typed.
    """
    from descent.cli.machine_limits import check_machine

    tried = dict(plan.values)
    for key, part in space.items():
        if isinstance(part, Range):
            tried[key] = [str(part.low), str(part.high)]
    first = {key: values[0] for key, values in tried.items()}
    plain: dict[str, Any] = {}
    chosen = [first, *({**first, key: v} for key, values in tried.items() for v in values[1:])]
    for values in chosen:
        point = plan.point(values)
        config, _ = compose([*point.words, f"folder={quote_literally(str(point.folder.path))}"])
        overrides = by_key(point.words)
        plain = resolve_references(config, overrides)
        raise_first(check(plain, overrides, list_fields("train")).problems)
        raise_first(check_machine(plain))
        if before is not None:
            require_harmless(point.folder, plain, typed, list_targets())
    return plain


def compose(words: Sequence[str]) -> tuple[DictConfig, DictConfig]:
    """Return the config that words give, and Hydra's own part of it.

    Raises:
        ConfigError: they give none.
    """
    try:
        with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
            config = hydra.compose("train", list(words), return_hydra_config=True)
    except Exception as error:
        if (wrong := explain(error, words, "train")) is None:
            raise
        raise wrong from error
    HydraConfig.instance().set_config(config)  # as a command does, which knows its words
    own = config.hydra
    with open_dict(config):
        del config["hydra"]
    return config, own


def run_sweep(sweep: Sweep, call: Callable[[list[str]], None], script: str) -> int:
    """Run what is missing of a sweep and rank all of it, and return how many runs failed.

    Args:
        sweep: as planned.
        call: runs one command line, in a process of its own.
        script: of the command.
    """
    for module in IMPORTS:
        import_module(module)
    from descent.sweep.conduct import Command, conduct
    from descent.sweep.search import Search, Settings

    plan, monitor, mode = sweep.plan, sweep.config["monitor"], sweep.config["mode"]
    with hold(plan):
        plan.write()
        source, batch = Source(plan.points()), len(plan.points())
        if plan.has_trials():
            settings = Settings(**plan.search)
            source = Search(plan, settings, sweep.space, sweep.trials, (monitor, mode))
            batch = sweep.trials
            if settings.sampler == "tpe":  # which proposes by what came of those before
                batch = sweep.jobs or settings.startup
        start = None
        if sweep.launcher:
            start = partial(launch, plan=plan, words=sweep.launcher, script=str(Path(script).resolve()))
        limits = find_limits(sweep.config, sweep.jobs)
        command = Command(call, limits, start, batch, monitor, mode, os.path.relpath(script), to_recipe)
        return conduct(plan, source, command)


def to_recipe(words: Sequence[str], comment: str) -> str:
    """Return a file of the group experiment with the words of a run."""
    words = [word for word in words if not word.startswith("hydra")]
    choices, fields = [], OmegaConf.create()
    for word in sorted(words, key=lambda word: key_of(word) != "experiment"):  # a recipe's choices come first
        key, value = key_of(word), word.partition("=")[2]
        if key in list_groups():
            choices.append(f"  - {value}" if key == "experiment" else f"  - override /{key}: {value}")
        else:
            OmegaConf.update(fields, key, parse(word).value())
    lines = ["# @package _global_", f"# {comment}", *(["defaults:", *choices] if choices else [])]
    return "\n".join(lines) + "\n" + (OmegaConf.to_yaml(fields) if fields else "")


def find_limits(config: Mapping[str, Any], jobs: int | None) -> Limits:
    """Return what this machine can run of a config at the same time."""
    import torch

    cuda = torch.cuda.is_available()
    names = [str(number) for number in range(torch.cuda.device_count())] if cuda else []
    if cuda and os.environ.get("CUDA_VISIBLE_DEVICES"):
        names = os.environ["CUDA_VISIBLE_DEVICES"].split(",")
    trainer, threads = config["trainer"], config["threads"]
    on_gpu = trainer.get("accelerator") in ("auto", "gpu", "cuda")
    devices = trainer.get("devices")
    return Limits(
        jobs=jobs,
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        gpus=names if on_gpu else [],
        threads=threads if isinstance(threads, int) else None,
        processes=devices if isinstance(devices, int) and devices > 0 else 1,
        spawn=cuda or sys.platform in ("darwin", "win32"),
    )
