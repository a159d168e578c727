"""From the words of a sweep to its plan: what varies, where it goes, and that every word of it exists."""

import os
import re
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from importlib import import_module
from pathlib import Path
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from descent.build import build_node
from descent.cli.check import FIELDS, check
from descent.cli.compose import compose, name_run
from descent.cli.main import attempt
from descent.cli.overrides import by_key, key_of, parse
from descent.errors import ConfigError, blame, require, require_one_of
from descent.paths import CONF, LOGS, ROOT, list_choices, list_groups
from descent.run.folder import RunFolder
from descent.sweep.engines import load
from descent.sweep.plan import PLAN, Plan, find_before, hold, read_plan
from descent.sweep.search import divide, read_range

OF_RUNS = ("search", "trials", "jobs", "executor")  # how a sweep's runs are chosen and where they compute
NAME = 100  # characters of a sweep's name, at most
OWN = ("folder", "name", "resume", *OF_RUNS)  # not about a run
CODE_OR_FILES = re.compile(r"(^|\.)_|dir|(\.|file)name$|version$")  # in keys that saved words may not set
IMPORTS = (  # what a run needs, in addition to what its config names: forked processes find it there
    "callbacks.board", "callbacks.recorder", "losses", "metrics", "notebook", "run.checkpoints",
)  # fmt: skip


def plan_sweep(words: Sequence[str], multirun: bool) -> Plan | None:
    """Return the sweep that a command line asks for, or None if it is a single run.

    A sweep is what `-m` asks for, or a recipe with several values, or the folder of one by `resume=`.

    Raises:
        ConfigError: a word that does not exist, or a folder that contains something else.
    """
    typed = by_key(words)
    require_one_of(list_choices("search"), "search", typed.get("search", "none"))  # Hydra ignores others
    resume = next((parse(word).value() for word in words if key_of(word) == "resume"), None)
    place = Path(str(resume)).expanduser().resolve()
    saved = read_plan(place) if isinstance(resume, str) and (place / PLAN).exists() else None
    if not multirun and saved is None and not is_recipe(words):
        for key, value in typed.items():
            expected = "-m, and an override with several values"
            require(root_of(key) not in OF_RUNS, key, value, expected)
        return None
    plan = lay_out(words, saved)
    before = saved or find_before(plan, resume)
    if before is not None:
        expected = f"the words in its {PLAN}, to which only values may be added"
        require(plan.is_like(before), "resume", RunFolder(before.folder), expected)
    return plan if before is saved else lay_out(words, before)


def is_recipe(words: Sequence[str]) -> bool:
    """Return whether the experiment that words choose varies something that they do not set to one value."""
    if "experiment" not in by_key(words):
        return False
    single = list_single(words)
    return not compose("train", single).recipe.keys() <= by_key(single).keys()


def list_single(words: Sequence[str]) -> list[str]:
    """Return the words that all runs share."""
    return [word for word in words if key_of(word) != "resume" and not parse(word).is_sweep_override()]


def lay_out(words: Sequence[str], before: Plan | None) -> Plan:
    """Return the sweep of some words, in addition to those of the sweep that it continues."""
    typed, values = by_key(words), before.values if before else {}
    if before is not None:
        require_harmless(before, typed)
        words = merge([*before.words, *before.search], words)
    found = compose("train", list_single(merge(["executor=local"], words)))
    config, search = found.config, found.config["search"]
    fixed, values = expand(merge([f"{k}={v}" for k, v in found.recipe.items()], words), values)
    more = [word for word in words if root_of(word) in OF_RUNS]
    of_search = [word for word in more if root_of(word) in ("search", "trials")] if search else []
    expected = "an override with several values or a range"
    require(not search or bool(values), "search", " ".join(of_search), expected)
    for key, texts in values.items():
        if (interval := read_range(key, texts[0])) is not None:
            expected = "values, such as 0.1,0.2; or search=…, which draws from a range"
            require(bool(search), key, texts[0], expected)
            values[key] = divide(interval, search["steps"]) if "steps" in search else texts
    if "sampler" in search:
        compared = not config["monitor"].endswith("/loss") or "loss" not in map(root_of, values)
        expected = "a metric such as val/acc, and its mode, because different losses cannot be compared"
        require(compared, "monitor", config["monitor"], expected)
        load("optuna", "search")
    varying = [key.rpartition(".")[2] for key in values]
    ours = "-".join([*varying, name_run(found.choices, fixed)])[:NAME].rstrip("-_.")
    name = config["name"] if "name" in typed else ours
    folder = config["folder"] if "folder" in typed else LOGS / f"{name}-{datetime.now():%Y%m%d-%H%M%S}"
    return Plan(before.folder if before else Path(folder), fixed, values, of_search, more)


def root_of(word: str) -> str:
    """Return the first part of a word's key."""
    return key_of(word).partition(".")[0]


def merge(first: Sequence[str], then: Sequence[str]) -> list[str]:
    """Return words, each key once; the later one counts."""
    return list({key_of(word): word for word in (*first, *then)}.values())


def require_harmless(plan: Plan, typed: Mapping[str, str]) -> None:
    """Reject saved words that do more than set a key to a plain value, unless they are typed."""
    groups = list_groups()
    keys = {*FIELDS["train"], *groups} - {"allow", "executor", "folder", "jobs", "name", "resume"}
    values = [f"{key}={value}" for key, texts in plan.values.items() for value in texts]
    for word in (*plan.words, *plan.search, *values):
        key, value = key_of(word), word.partition("=")[2]
        good = root_of(word) in keys and not CODE_OR_FILES.search(key)
        good = good and ("=" in word or word.startswith("~"))
        good = good and not re.search(r"[${}/\\]" if key in groups else "[${}]", value)
        if not good and (key not in typed or value not in (typed[key], *typed[key].split(","))):
            expected = f"plain values of a run's config, or this override typed again: {word[:200]!r}"
            raise ConfigError(str(plan.folder / PLAN), expected=expected)


def expand(words: Sequence[str], before: Mapping[str, list[str]]) -> tuple[list[str], dict[str, list[str]]]:
    """Return words that all runs share, and the values of each key that varies, or its range.

    Those of the continued sweep come first.
    """
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
    fixed, values = [], dict(before)
    for word in words:
        override, text = parse(word), word.partition("=")[2]
        override.config_loader = loader  # glob(*) asks it for the words of a group
        key, several = override.get_key_element(), override.is_sweep_override()
        require(not several or root_of(word) not in OWN, key, text, "one value, which all runs share")
        if several and not override.is_discrete_sweep():
            values[key] = [text]
        elif several or key in values:
            with blame(key):
                found = override.sweep_string_iterator() if several else [override.get_value_element_as_str()]
                more = list(found)
            require(bool(more), key, text, "at least one value")
            values[key] = list(dict.fromkeys([*values.get(key, []), *more]))
        elif root_of(word) not in OWN:
            fixed.append(word)
    return fixed, values


def check_points(plan: Plan) -> dict[str, Any]:
    """Compose and check a run with each value of each key, and return the config of the first one.

    Of several numbers, only the smallest and the largest are tried.
    """
    tried = {}
    for key, texts in plan.values.items():
        interval = read_range(key, texts[0])
        tried[key] = [str(interval.low), str(interval.high)] if interval else texts
        with suppress(ValueError):  # they are not numbers
            tried[key] = list(dict.fromkeys((min(tried[key], key=float), max(tried[key], key=float))))
    first = {key: texts[0] for key, texts in tried.items()}
    configs = []
    for values in (first, *({**first, key: text} for key, texts in tried.items() for text in texts[1:])):
        words = merge(["executor=local", *plan.more], plan.point(values).line())
        configs.append(compose("train", words).config)
        check("train", configs[-1], by_key(words))
    return configs[0]


def run_sweep(plan: Plan) -> int:
    """Check a sweep's words, run what is missing of it, rank all of it, and return the exit code."""
    config, script = check_points(plan), Path(sys.argv[0]).resolve()
    jobs = config["jobs"]
    require(jobs == "auto" or jobs >= 1, "jobs", jobs, "auto, or how many runs at a time, at least 1")
    for module in IMPORTS:
        import_module(f"descent.{module}")
    from descent.sweep.conduct import Queue, Sweeping

    source = str(ROOT / "src")  # processes elsewhere find the package where this one did
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [source, os.environ.get("PYTHONPATH")]))
    with hold(plan.folder):
        offers = {"call": run_command, "config": config, "folder": plan.folder}
        engine = build_node("executor", config["executor"], offers)
        plan.write()
        queue = Queue(plan.points())
        if "sampler" in config["search"]:
            offers = {"plan": plan, **{key: config[key] for key in ("trials", "seed", "monitor", "mode")}}
            queue = build_node("search", config["search"], offers)
        return Sweeping(plan.folder, queue, engine, config, script).conduct()


def run_command(words: list[str]) -> int:
    """Do what `python src/train.py` does with these words, in this process, and return the exit code."""
    from descent.notebook import train

    return attempt(lambda: train(words), by_key(words))


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
