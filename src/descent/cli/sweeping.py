"""Turns the overrides of a sweep into its plan: what varies and where it goes; checks every override."""

import math
import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from importlib import import_module
from pathlib import Path
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.types import Sweep

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
from descent.sweep.plan import PLAN, Plan, find_plan, hold, read_plan
from descent.sweep.search import Range

SINGLE = ("folder", "name", "resume")  # set for a sweep or a single run, not for a sweep's runs
OWN = (*SINGLE, "jobs", "executor", "trials", "search")  # not set for a sweep's runs
ALONE = "hydra.mode=RUN"  # for a point whose recipe describes the sweep
PLACES = (  # fields with names of files, which saved overrides may not set
    "allow", "name", "folder", "resume", "dirpath", "save_dir", "default_root_dir", "root_dir", "log_dir",
    "filename", "version", "sub_dir",
)  # fmt: skip
IMPORTS = (  # what a run needs in addition to what its config names; forked processes inherit it
    "lightning.pytorch", "torch.utils.tensorboard.summary", "tensorboard.plugins.hparams.plugin_data_pb2",
    "descent.callbacks.recorder", "descent.metrics", "descent.losses", "descent.run.checkpoints",
    "descent.run.initial_weights",
)  # fmt: skip
NUMBER = re.compile(r"-?\d+(\.\d+)?(e[-+]?\d+)?")
Space = dict[str, Range | list[str]]  # the values of each key that varies, or the range of a search


def plan_sweep(words: Sequence[str], multirun: bool) -> tuple[Plan, dict[str, Any], Space] | None:
    """Return a plan, the config of one of its runs, and what varies; None for a single run.

    `-m` asks for a sweep, and so do a recipe with `hydra.mode: MULTIRUN` and `resume=` with a sweep's folder.
    """
    own = {key_of(word): parse(word).value() for word in words if root_of(word) in OWN}
    for key, value in own.items():
        require(not isinstance(value, Sweep), key, by_key(words)[key], "one value, which all runs share")
    jobs = own.get("jobs", "auto")
    good = jobs == "auto" or (isinstance(jobs, int) and jobs >= 1)
    require(good, "jobs", jobs, "auto, or how many runs at a time, at least 1")
    if "search" in own:  # Hydra allows it to be absent
        require_one_of(list_choices("search"), "search", str(own["search"]))
    resume = own.get("resume")
    place = Path(resume).expanduser().resolve() if isinstance(resume, str) else None
    before = read_plan(place) if place and (place / PLAN).exists() else None
    if not multirun and before is None and ("experiment" not in by_key(words) or ALONE in words):
        for key, value in own.items():
            require(root_of(key) in SINGLE, key, value, "-m with it, and several values of a word")
        return None
    if before is None:
        plan, space, recipe = lay_out(words, own, None)
        if not multirun and not recipe:
            return None
        before = find_before(plan, resume)
    if before is not None:
        require_harmless(before, by_key(words))
        plan, space, _ = lay_out(words, own, before)
        expected = f"the sweep of the same words: {' '.join(before.typed())[:300]}"
        require(plan.is_like(before), "resume", RunFolder(before.folder), expected)
    about = merge(["executor=local"], [word for word in words if root_of(word) in ("jobs", "executor")])
    return plan, check_points(plan, space, [*plan.search, *about]), space


def root_of(word: str) -> str:
    """Return the first part of an override's key."""
    return key_of(word).partition(".")[0]


def merge(first: Iterable[str], then: Iterable[str]) -> list[str]:
    """Return overrides with each key once; the later one wins."""
    return list({key_of(word): word for word in (*first, *then)}.values())


def lay_out(words: Sequence[str], own: Mapping[str, Any], before: Plan | None) -> tuple[Plan, Space, bool]:
    """Return the plan that overrides describe, what varies, and whether a recipe asks for it."""
    typed = [word for word in words if root_of(word) not in OWN]
    about = [word for word in words if root_of(word) in ("search", "trials")]
    about = merge(before.search if before else (), about)
    shared = merge(before.words if before else (), typed)
    found = compose("train", [*(word for word in shared if not parse(word).is_sweep_override()), *about])
    search, monitor = found.config["search"], found.config["monitor"]
    fixed, space = expand(merge([f"{k}={v}" for k, v in found.recipe.items()], typed), before)
    if search:
        require(bool(space), "search", " ".join(about), "words with several values, or a range")
    if "sampler" in search:
        mixed = monitor.endswith("/loss") and "loss" in map(root_of, space)
        expected = "a metric such as val/acc, and its mode, because values of different losses do not compare"
        require(not mixed, "monitor", monitor, expected)
        load("optuna", "search")
    texts: dict[str, list[str]] = {}
    for key, part in space.items():
        expected = "values, such as 0.1,0.2; or search=… with it, which draws from a range"
        require(bool(search) or isinstance(part, list), key, getattr(part, "text", ""), expected)
        if isinstance(part, list):
            texts[key] = part
        else:
            texts[key] = part.divide(search["steps"]) if "steps" in search else [part.text]
    folder = LOGS / f"{own.get('name') or name_sweep(fixed, space)}-{datetime.now():%Y%m%d-%H%M%S}"
    folder = Path(str(own.get("folder") or folder)).expanduser().resolve()
    require("${" not in str(folder), "folder", folder, "the folder of the sweep; its runs get folders in it")
    fixed = merge(fixed, [ALONE] if found.recipe else ())
    plan = Plan(before.folder if before else folder, fixed, texts, about if search else [])
    return plan, space, bool(found.recipe)


def find_before(plan: Plan, resume: Any) -> Plan | None:
    """Return the sweep to continue: the one in the same folder, or the newest with the same overrides."""
    if (plan.folder / PLAN).exists():
        expected = "a folder without a sweep in it, or resume=true, which goes on with that one"
        require(bool(resume), "folder", RunFolder(plan.folder), expected)
        return read_plan(plan.folder)
    if not resume:
        return None
    found = find_plan(plan, plan.folder.parent) if resume is True else None
    expected = f"a sweep of these words in {RunFolder(plan.folder.parent)}; there is none"
    require(found is not None, "resume", resume, expected)
    return found


def require_harmless(plan: Plan, typed: Mapping[str, str]) -> None:
    """Reject saved overrides that do more than set a key to a plain value, unless they are also typed."""
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
    """Return the overrides that all runs share, and what varies; values of a continued sweep come first."""
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
    fixed: dict[str, str] = {}
    space: Space = {}
    for word in (*(before.typed() if before else ()), *words):
        override, text = parse(word), word.partition("=")[2]
        override.config_loader = loader  # glob(*) asks it for a group's words
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
    """Parse one of Hydra's intervals, such as `tag(log,interval(1e-4,1))` or `int(interval(1,8))`."""
    log, low, high = "log" in interval.tags, interval.start, interval.end
    numbers = isinstance(low, int | float) and isinstance(high, int | float)
    good = numbers and (0 if log else -math.inf) < low < high < math.inf
    require(good, key, text, "an interval from a lower to a higher number")
    return Range(low, high, log, text)


def name_sweep(fixed: Iterable[str], space: Iterable[str]) -> str:
    """Return `loss-optimizer-seed-max_epochs=3`: what varies, and then what else was typed."""
    typed = [word for word in fixed if not word.startswith("hydra")]
    parts = [part.rpartition(".")[2].removeprefix("experiment=") for part in (*space, *typed)]
    return re.sub(r"[^\w.=+-]+", "_", "-".join(parts).lstrip("+~"))[:100] or "sweep"


def check_points(plan: Plan, space: Space, about: Sequence[str]) -> dict[str, Any]:
    """Compose and check a run with each value of each key, and return the config of the first one.

    Of several numbers, only the least and the greatest are tried.
    """
    tried = {}
    for key, part in space.items():
        texts = [str(part.low), str(part.high)] if isinstance(part, Range) else part
        numbers = sorted(filter(NUMBER.fullmatch, texts), key=float)
        others = [text for text in texts if not NUMBER.fullmatch(text)]
        tried[key] = list(dict.fromkeys([*numbers[:1], *numbers[-1:], *others]))
    first = {key: texts[0] for key, texts in tried.items()}
    configs = []
    for values in (first, *({**first, key: text} for key, texts in tried.items() for text in texts[1:])):
        point = plan.point(values)
        words = [*point.words, *about, f"folder={quote(str(point.folder.path))}"]
        configs.append(compose("train", words).config)
        check("train", configs[-1], by_key(words))
    return configs[0]


def run_command(words: list[str]) -> int:
    """Do what `python src/train.py` does with these overrides, in this process, and return the exit code."""
    from descent.cli.runs import start
    from descent.notebook import load_job

    try:
        with report(by_key(words)):
            start(load_job(), words)
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    return 0


def run_sweep(sweep: tuple[Plan, dict[str, Any], Space]) -> int:
    """Run what is missing from a sweep, rank all its runs, and return the exit code."""
    for module in IMPORTS:
        import_module(module)
    from descent.sweep.conduct import Queue, Sweeping
    from descent.sweep.ranking import Measure

    plan, config, space = sweep
    source, script = str(ROOT / "src"), Path(sys.argv[0]).resolve()
    # processes elsewhere import the package from the same place
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [source, os.environ.get("PYTHONPATH")]))
    lock = hold(plan.folder)
    offers = {"call": run_command, "config": config, "folder": plan.folder}
    engine = build_node("executor", config["executor"], offers)
    plan.write()
    if "sampler" in config["search"]:
        measure = Measure(config["monitor"], config["mode"] == "min")
        drawn = {"plan": plan, "space": space, "trials": config["trials"], "seed": config["seed"]}
        queue = build_node("search", config["search"], {**drawn, "measure": measure})
    else:
        queue = Queue(plan.points())
    line, apart = command(os.path.relpath(script)), ([sys.executable, str(script)], str(Path.cwd()))
    try:
        return Sweeping(plan.folder, queue, engine, config, line, apart).conduct()
    finally:
        lock.release()
