"""From the words of a sweep to its plan: what varies, where it goes, and that every word of it exists."""

import math
import os
import re
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib import import_module
from pathlib import Path
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.types import Sweep as Sweeps
from omegaconf import OmegaConf

from descent.build import build_node
from descent.cli.check import check
from descent.cli.compose import compose
from descent.cli.fields import FIELDS
from descent.cli.main import report
from descent.cli.overrides import by_key, key_of, parse, quote
from descent.errors import ConfigError, blame, require, require_one_of
from descent.paths import CONF, LOGS, ROOT, list_choices, list_groups
from descent.run.folder import RunFolder, command
from descent.sweep.engines import load
from descent.sweep.plan import PLAN, Plan, find_plan, hold, read_plan, require_plain
from descent.sweep.search import Range

ALONE = "hydra.mode=RUN"  # of a point whose recipe describes the sweep


def check_run(words: Sequence[str]) -> dict[str, Any]:
    """Return a run's config as plain values, after every value of it has been checked.

    Raises:
        ConfigError: an override that does not exist, or a value that cannot be.
    """
    config = compose("train", words).config
    if "sampler" in config["search"]:
        load("optuna", "search")
    check("train", config, by_key(words))
    return config


def run_command(words: list[str]) -> int:
    """Do what `python src/train.py` does with these words, in this process, and return the exit code."""
    from descent.cli.runs import start
    from descent.notebook import load_job

    try:
        with report(by_key(words)):
            start(load_job(), words)
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    return 0


IMPORTS = (  # what a run needs, in addition to what its config names: forked processes find it there
    "lightning.pytorch", "torch.utils.tensorboard.summary", "tensorboard.plugins.hparams.plugin_data_pb2",
    "descent.callbacks.recorder", "descent.metrics", "descent.losses", "descent.run.checkpoints",
    "descent.run.initial_weights",
)  # fmt: skip

# ---- a sweep -----------------------------------------------------------------------------------------------

OWN = ("folder", "name", "resume", "jobs", "executor", "trials", "search")  # not about a sweep's runs
PLACES = (  # fields with names of files, which the words of a folder may not set
    "allow", "name", "folder", "resume", "dirpath", "save_dir", "default_root_dir", "root_dir", "log_dir",
    "filename", "version", "sub_dir",
)  # fmt: skip
Space = dict[str, Range | list[str]]


@dataclass
class Sweep:
    """A sweep whose words have proved good."""

    plan: Plan
    config: dict[str, Any]  # of one of the runs, plain values, with the groups search and executor
    space: Space  # the values of what varies, or the range that a search draws from


def plan_sweep(words: Sequence[str], multirun: bool, before: Plan | None = None) -> Sweep | None:
    """Return what a command line asks to be run, or None where that is a single run.

    A sweep is what `-m` asks for, or a recipe by `hydra.mode: MULTIRUN`, or the folder of one by `resume=`.
    `before` is the sweep that goes on, where that is known.

    Raises:
        ConfigError: a word that does not exist, or a folder that contains something else.
    """
    own = read_own(words)
    resume = own.get("resume")
    place = Path(resume).expanduser().resolve() if isinstance(resume, str) else None
    if before is None and place is not None and (place / PLAN).exists():
        before = read_plan(place)
    if not multirun and before is None and ("experiment" not in by_key(words) or ALONE in words):
        for key, value in own.items():
            single = root_of(key) in ("folder", "name", "resume")
            require(single, key, value, "-m with it, and several values of a word")
        return None
    if before is not None:
        require_plain(before.folder)
        require_harmless(before, by_key(words))
    default = [] if any(root_of(word) == "executor" for word in words) else ["executor=local"]
    about = merge(
        before.search if before else [], [*default, *(word for word in words if root_of(word) in OWN[3:])]
    )
    task = [word for word in words if root_of(word) not in OWN]
    alone = merge(before.words if before else [], task)
    found = compose("train", [*(word for word in alone if not parse(word).is_sweep_override()), *about])
    config, recipe = found.config, found.recipe
    if not multirun and before is None and not recipe:
        return None
    fixed, space = expand(merge([f"{k}={v}" for k, v in recipe.items()], task), before)
    fixed = merge(fixed, [ALONE] if recipe else [])
    search = config["search"]
    of_search = [word for word in about if root_of(word) in ("search", "trials")] if search else []
    expected = "words with several values, or a range"
    require(not search or bool(space), "search", " ".join(of_search), expected)
    mixed = "sampler" in search and config["monitor"].endswith("/loss") and "loss" in map(root_of, space)
    expected = "a metric such as val/acc, and its mode, because values of different losses do not compare"
    require(not mixed, "monitor", config["monitor"], expected)
    texts = {key: list_values(key, part, search) for key, part in space.items()}
    folder = choose_folder(own, name_sweep(fixed, space), before)
    plan = Plan(folder, fixed, texts, of_search)
    saved = before
    if before is None and (plan.folder / PLAN).exists():
        expected = "a folder without a sweep in it, or resume=true, which goes on with that one"
        require(bool(resume), "folder", RunFolder(plan.folder), expected)
        saved = read_plan(plan.folder)
    elif before is None and resume:
        saved = find_plan(plan, plan.folder.parent) if resume is True else None
        expected = f"a sweep of these words in {RunFolder(plan.folder.parent)}; there is none"
        require(saved is not None, "resume", resume, expected)
    if saved is not None:
        expected = f"the sweep of the same words: {' '.join(saved.typed())[:300]}"
        require(plan.is_like(saved), "resume", RunFolder(saved.folder), expected)
        if before is None:
            return plan_sweep(words, True, saved)
        plan.folder = before.folder
    return Sweep(plan, check_points(plan, space, about), space)


def read_own(words: Sequence[str]) -> dict[str, Any]:
    """Return the values of the words that are about the sweep, not about its runs.

    Raises:
        ConfigError: several values of such a word, or one that it does not take.
    """
    own = {key_of(word): parse(word).value() for word in words if root_of(word) in OWN}
    for key, value in own.items():
        require(not isinstance(value, Sweeps), key, by_key(words)[key], "one value, which all runs share")
        if key in ("search", "executor"):
            require_one_of(list_choices(key), key, str(value))
    jobs = own.get("jobs", "auto")
    good = jobs == "auto" or (type(jobs) is int and jobs >= 1)
    require(good, "jobs", jobs, "auto, or how many runs at a time, at least 1")
    return own


def choose_folder(own: Mapping[str, Any], default: str, before: Plan | None) -> Path:
    """Return the sweep's folder: the one asked for, or that of `before`, or a new one in `logs/`."""
    name = str(own.get("name") or default)
    require(".." not in Path(name).parts, "name", name, "a name that leads nowhere else")
    fresh = before.folder if before else LOGS / f"{name}-{datetime.now():%Y%m%d-%H%M%S}"
    folder = Path(str(own.get("folder") or fresh)).expanduser().resolve()
    require("${" not in str(folder), "folder", folder, "the folder of the sweep; its runs get folders in it")
    return folder


def root_of(word: str) -> str:
    """Return the first part of a word's key."""
    return key_of(word).partition(".")[0]


def merge(first: Sequence[str], then: Sequence[str]) -> list[str]:
    """Return words, each key once; the later one counts."""
    return list({key_of(word): word for word in (*first, *then)}.values())


def require_harmless(plan: Plan, typed: Mapping[str, str]) -> None:
    """Refuse saved words that do more than set a key to a plain value, unless they are typed."""
    groups = list_groups()
    keys = {*FIELDS["train"], *groups} - {"executor", "jobs"}
    values = [f"{key}={value}" for key, texts in plan.values.items() for value in texts]
    for word in (*plan.words, *plan.search, *values):
        key, equals, value = word.partition("=")
        parts = key.lstrip("+~").split(".")
        good = parts[0] in keys and not any(p.startswith("_") or p in PLACES for p in parts)
        good = good and (bool(equals) or word.startswith("~"))
        good = good and not re.search(r"[${}/\\]" if key in groups else "[${}]", value)
        if not good and (key not in typed or value not in (typed[key], *typed[key].split(","))):
            expected = f"plain values of a run's config, or this word typed again: {word[:200]!r}"
            raise ConfigError(str(plan.folder / PLAN), expected=expected)


def expand(words: Sequence[str], before: Plan | None) -> tuple[list[str], Space]:
    """Return words that all runs share, and the values or the range of each key that varies.

    The values of the sweep that goes on come first.
    """
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
    fixed: dict[str, str] = {}
    space: Space = {}
    for word in (*(before.typed() if before else ()), *words):
        override, text = parse(word), word.partition("=")[2]
        override.config_loader = loader  # glob(*) asks it for the words of a group
        key, several = override.get_key_element(), override.is_sweep_override()
        if several and not override.is_discrete_sweep():
            space[key] = read_range(key, text, override.value())
        elif several or (before and key in before.values):
            with blame(key):
                found = override.sweep_string_iterator() if several else [override.get_value_element_as_str()]
                more = list(found)
            require(bool(more), key, text, "at least one value")
            known = space.get(key)
            space[key] = list(dict.fromkeys([*(known if isinstance(known, list) else ()), *more]))
        elif root_of(word) not in OWN:
            fixed[key] = word
    return list(fixed.values()), space


def read_range(key: str, text: str, interval: Any) -> Range:
    """Return an interval of Hydra's, such as `tag(log,interval(1e-4,1))` or `int(interval(1,8))`."""
    log, low, high = "log" in interval.tags, interval.start, interval.end
    numbers = isinstance(low, int | float) and isinstance(high, int | float)
    good = numbers and (0 if log else -math.inf) < low < high < math.inf
    require(good, key, text, "an interval from a lower to a higher number")
    return Range(low, high, log, text)


def list_values(key: str, part: Range | list[str], search: Mapping[str, Any]) -> list[str]:
    """Return the values of a plan: those that are typed, of a range its text or the steps of a grid."""
    if isinstance(part, list):
        return part
    expected = "values, such as 0.1,0.2; or search=… with it, which draws from a range"
    require(bool(search), key, part.text, expected)
    return part.divide(search["steps"]) if "steps" in search else [part.text]


def name_sweep(fixed: Sequence[str], space: Collection[str]) -> str:
    """Return `loss-optimizer-seed-max_epochs=3`: what varies, and then what else was typed."""
    typed = [word for word in fixed if not word.startswith("hydra")]
    parts = [part.rpartition(".")[2].removeprefix("experiment=") for part in (*space, *typed)]
    return re.sub(r"[^\w.=+-]+", "_", "-".join(parts).lstrip("+~"))[:100] or "sweep"


def check_points(plan: Plan, space: Space, more: Sequence[str]) -> dict[str, Any]:
    """Compose and check a run with each value of each key, and return the config of the first one.

    Of several numbers the least and the greatest are tried.
    """
    tried = {}
    for key, part in space.items():
        texts = [str(part.low), str(part.high)] if isinstance(part, Range) else plan.values[key]
        numbers = sorted((t for t in texts if re.fullmatch(r"-?\d+(\.\d+)?(e[-+]?\d+)?", t)), key=float)
        others = dict.fromkeys(texts).keys() - set(numbers)
        tried[key] = list(dict.fromkeys([*numbers[:1], *numbers[-1:], *(t for t in texts if t in others)]))
    first = {key: texts[0] for key, texts in tried.items()}
    configs = []
    for values in (first, *({**first, key: text} for key, texts in tried.items() for text in texts[1:])):
        point = plan.point(values)
        configs.append(check_run([*point.words, *more, f"folder={quote(str(point.folder.path))}"]))
    return configs[0]


def run_sweep(sweep: Sweep) -> int:
    """Run what is missing of a sweep, rank all of it, and return the exit code."""
    for module in IMPORTS:
        import_module(module)
    from descent.sweep.conduct import Queue, Sweeping
    from descent.sweep.ranking import Measure

    plan, config, script = sweep.plan, sweep.config, Path(sys.argv[0]).resolve()
    source = str(ROOT / "src")  # processes elsewhere find the package where this one did
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [source, os.environ.get("PYTHONPATH")]))
    lock = hold(plan.folder)
    offers = {"call": run_command, "config": config, "folder": plan.folder}
    engine = build_node("executor", config["executor"], offers)
    plan.write()
    if "sampler" in config["search"]:
        measure = Measure(config["monitor"], config["mode"] == "min")
        drawn = {"plan": plan, "space": sweep.space, "trials": config["trials"], "seed": config["seed"]}
        queue = build_node("search", config["search"], {**drawn, "measure": measure})
    else:
        queue = Queue(plan.points())
    line, apart = command(os.path.relpath(script)), ([sys.executable, str(script)], str(Path.cwd()))
    try:
        return Sweeping(plan.folder, queue, engine, config, line, apart).conduct(to_recipe)
    finally:
        lock.release()


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
