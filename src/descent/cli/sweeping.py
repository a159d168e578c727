"""From the words of a sweep to its plan: what varies, where it goes, and that every word of it exists."""

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
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import OmegaConf, open_dict

from descent.cli.build import build_node
from descent.cli.check import check
from descent.cli.compose import explain, list_fields, resolve_references
from descent.cli.job import raise_first
from descent.cli.paths import CONF, LOGS, ROOT, list_choices, list_groups
from descent.cli.words import by_key, parse, quote_literally
from descent.errors import ConfigError, require
from descent.run.folder import RunFolder
from descent.run.resume import key_of
from descent.sweep.plan import PLAN, Plan, find_plan, hold, read_plan, require_plain
from descent.sweep.search import Range

# ---- what the core does: these alone know how --------------------------------------------------------------


def compose(words: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the config that words give, and Hydra's own part of it, as plain values.

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
    mode = own.mode and own.mode.name
    return resolve_references(config, by_key(words)), {"mode": mode, "params": dict(own.sweeper.params or {})}


def check_run(words: Sequence[str]) -> dict[str, Any]:
    """Return a run's config as plain values, after every value of it has been checked.

    Raises:
        ConfigError: a word that does not exist, or a value that cannot be.
    """
    from descent.cli.machine_limits import check_machine

    config, _ = compose(words)
    raise_first(check(config, by_key(words), list_fields("train")).problems)
    raise_first(check_machine(config))
    return config


def build(key: str, node: Mapping[str, Any], offers: Mapping[str, Any]) -> Any:
    """Make the object of a node; its target gets those offers that it names."""
    import inspect

    named = inspect.signature(hydra.utils.get_class(node["_target_"])).parameters
    given = {name: offer for name, offer in offers.items() if name in named}
    return build_node(key, OmegaConf.create(dict(node)), given)


def run_command(words: list[str]) -> int:
    """Do what `python src/train.py` does with these words, in this process, and return the exit code."""
    from descent.cli.command import start

    try:
        start(sys.modules["__main__"].train, "train", words)
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    return 0


IMPORTS = (  # what a run needs, in addition to what its config names: forked processes find it there
    "lightning.pytorch", "torch.utils.tensorboard.summary", "tensorboard.plugins.hparams.plugin_data_pb2",
    "descent.callbacks.recorder", "descent.metrics", "descent.losses", "descent.run.checkpoints",
    "descent.run.initial_weights",
)  # fmt: skip

# ---- a sweep -----------------------------------------------------------------------------------------------

OWN = (
    "folder",
    "name",
    "resume",
    "jobs",
    "executor",
    "trials",
    "search",
)  # about a sweep, not about its runs
NEVER = (  # fields that the words of a folder may not set: names, and places that are written to
    "allow", "name", "folder", "resume", "dirpath", "save_dir", "default_root_dir", "root_dir", "log_dir",
    "filename", "version", "sub_dir",
)  # fmt: skip
Space = dict[str, Range | list[str]]


@dataclass
class Sweep:
    """A sweep whose words have proved good.

    Attributes:
        plan: what is to be run.
        config: of one of the runs, plain values, and of the groups search and executor.
        space: the values of what varies, or the range that a search draws from.
    """

    plan: Plan
    config: dict[str, Any]
    space: Space


def plan_sweep(words: Sequence[str], multirun: bool) -> Sweep | None:
    """Return what a command line asks to be run, or None where that is a single run.

    A sweep is what `-m` asks for, or a recipe by `hydra.mode: MULTIRUN`, or the folder of one by `resume=`.

    Raises:
        ConfigError: a word that does not exist, or a folder that contains something else.
    """
    own = {key_of(word): word for word in words if root_of(word) in OWN}
    values = {key: parse(word).value() for key, word in own.items()}
    before = find_saved(values.get("resume"), words)
    if not multirun and before is None and not {"experiment", "hydra.mode"} & by_key(words).keys():
        for key in own:
            alone = root_of(key) in ("folder", "name", "resume")
            require(alone, key, values[key], "-m with it, and several values of a word")
        return None
    task = merge(before.words if before else [], [word for word in words if root_of(word) not in OWN])
    settings = [word for key, word in own.items() if root_of(key) in ("search", "trials")]
    settings = merge(before.search if before else [], settings)
    engine = [word for key, word in own.items() if root_of(key) in ("jobs", "executor")]
    config, recipe = compose([*(word for word in task if not is_several(word)), *settings, *engine])
    if not multirun and before is None and recipe["mode"] != "MULTIRUN":
        return None
    fixed, space = expand(merge([f"{k}={v}" for k, v in recipe["params"].items()], task), before)
    if recipe["mode"] == "MULTIRUN":
        fixed = merge(fixed, ["hydra.mode=RUN"])
    search = config["search"]
    if search:
        require(bool(space), " ".join(settings), "", "words with several values, or with a range, with it")
    name = str(values.get("name") or name_sweep(fixed, space))
    require(".." not in Path(name).parts, "name", name, "a name that leads nowhere else")
    folder = (
        values.get("folder") or (before and before.folder) or LOGS / f"{name}-{datetime.now():%Y%m%d-%H%M%S}"
    )
    require("${" not in str(folder), "folder", folder, "the folder of the sweep; its runs get folders in it")
    texts = {key: list_values(key, part, search) for key, part in space.items()}
    plan = Plan(Path(str(folder)).expanduser().resolve(), fixed, texts, settings if search else [])
    settle(plan, values.get("resume"), before)
    config = check_points(plan, space, [*settings, *engine])
    if "sampler" in search and any(key.partition(".")[0] == "loss" for key in space):
        expected = "a metric such as val/acc, and its mode, because values of different losses do not compare"
        require(not config["monitor"].endswith("/loss"), "monitor", config["monitor"], expected)
    return Sweep(plan, config, space)


def root_of(word: str) -> str:
    """Return the first part of a word's key."""
    return key_of(word).partition(".")[0]


def merge(saved: Sequence[str], typed: Sequence[str]) -> list[str]:
    """Return words, each key once; what is typed wins."""
    return list({key_of(word): word for word in (*saved, *typed)}.values())


def is_several(word: str) -> bool:
    """Whether a word has several values, or a range."""
    return bool(parse(word).is_sweep_override())


def list_values(key: str, part: Range | list[str], search: Mapping[str, Any]) -> list[str]:
    """Return the values of a plan: those that are typed, of a range its text or the steps of a grid."""
    if isinstance(part, list):
        return part
    expected = "values, such as 0.1,0.2; or search=… with it, which draws from a range"
    require(bool(search), key, part.text, expected)
    return part.divide(search["steps"]) if "steps" in search else [part.text]


def find_saved(resume: object, typed: Sequence[str]) -> Plan | None:
    """Return the sweep that `resume=` names, if it names one.

    Raises:
        ConfigError: its words are not those of a run, or its folder contains links.
    """
    folder = Path(resume).expanduser().resolve() if isinstance(resume, str) else None
    if folder is None or not (folder / PLAN).exists():
        return None
    require_plain(folder)
    plan = read_plan(folder)
    require_harmless(plan, typed)
    return plan


def require_harmless(plan: Plan, typed: Collection[str]) -> None:
    """Refuse saved words that set anything but keys of the config to plain values, unless they are typed.

    Raises:
        ConfigError: naming the first one.
    """
    keys = {*list_fields("train"), "experiment"} - {"executor", "jobs"}
    for word in (
        *plan.words,
        *plan.search,
        *(f"{key}={v}" for key, texts in plan.values.items() for v in texts),
    ):
        key, equals, value = word.partition("=")
        parts = key.lstrip("+").split(".")
        good = bool(equals) and parts[0] in keys and not any(p.startswith("_") or p in NEVER for p in parts)
        if good and not re.fullmatch(r"[\w.+-]+", value):
            try:
                good = is_plain(parse(word).value()) and not (key in list_groups() and "/" in value)
            except HydraException:
                good = False
        if not good and word not in typed:
            expected = f"plain values of a run's config, or this word typed again: {word[:200]!r}"
            raise ConfigError(str(plan.folder / PLAN), expected=expected)


def is_plain(value: Any) -> bool:
    """Whether a value names nothing that is called, read or written to: no `_target_`, reference or place."""
    if isinstance(value, Mapping):
        fields = [str(key) for key in value]
        return not any(f.startswith("_") or f in NEVER for f in fields) and all(map(is_plain, value.values()))
    return all(map(is_plain, value)) if isinstance(value, list) else "${" not in str(value)


def expand(words: Sequence[str], before: Plan | None) -> tuple[list[str], Space]:
    """Return words that all runs share, and the values or the range of each key that varies.

    Args:
        words: as typed.
        before: the sweep that goes on, whose values come first.

    Raises:
        ConfigError: a word without values.
    """
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
    space: Space = {key: list(texts) for key, texts in (before.values if before else {}).items()}
    ranges = [
        f"{key}={texts[0]}" for key, texts in space.items() if len(texts) == 1 and before and before.search
    ]
    fixed: dict[str, str] = {}
    for word in merge([word for word in ranges if is_several(word)], words):
        override, text = parse(word), word.partition("=")[2]
        override.config_loader = loader  # glob(*) asks it for the words of a group
        key = override.get_key_element()
        known = space.get(key) if before else None
        if override.is_sweep_override() and not override.is_discrete_sweep():
            space[key] = read_range(key, text, override.value())
        elif override.is_sweep_override():
            try:
                texts = list(override.sweep_string_iterator())
            except (HydraException, ValueError, TypeError) as error:
                raise ConfigError(key, text, expected="values", choices=list_choices(key)) from error
            require(bool(texts), key, text, "at least one value")
            space[key] = join(known, texts)
        elif known:
            space[key] = join(known, [override.get_value_element_as_str()])
        else:
            fixed[key] = word
    return list(fixed.values()), space


def join(known: Range | list[str] | None, texts: Sequence[str]) -> list[str]:
    """Return values, each once, the known ones first."""
    return list(dict.fromkeys([*(known if isinstance(known, list) else []), *texts]))


def read_range(key: str, text: str, interval: Any) -> Range:
    """Return an interval of Hydra's, such as `tag(log,interval(1e-4,1))` or `int(interval(1,8))`."""
    log, low, high = "log" in interval.tags, interval.start, interval.end
    numbers = isinstance(low, int | float) and isinstance(high, int | float)
    good = numbers and (0 if log else -float("inf")) < low < high < float("inf")
    require(good, key, text, "an interval from a lower to a higher number")
    return Range(low, high, log, text)


def name_sweep(fixed: Sequence[str], space: Collection[str]) -> str:
    """Return `loss-optimizer-seed-max_epochs=3`: what varies, and then what else was typed."""
    parts = [key.lstrip("+~").rpartition(".")[2] for key in space]
    for word in fixed:
        if key_of(word) == "experiment":
            parts.append(word.partition("=")[2])
        elif not key_of(word).startswith("hydra"):
            parts.append(word.rpartition(".")[2])
    return re.sub(r"[^\w.=+-]+", "_", "-".join(parts))[:100] or "sweep"


def settle(plan: Plan, resume: object, before: Plan | None) -> None:
    """Go on with the sweep that is there where that was asked for, and make sure that it is the same.

    Raises:
        ConfigError: it is another one, or there is none, or one that was not to be resumed.
    """
    if before is None and (plan.folder / PLAN).exists():
        expected = "a folder without a sweep in it, or resume=true, which goes on with that one"
        require(bool(resume), "folder", RunFolder(plan.folder), expected)
        require_plain(plan.folder)
        before = read_plan(plan.folder)
    elif before is None and resume is True:
        before = find_plan(plan, plan.folder.parent)
    if before is None:
        expected = f"a sweep of these words in {RunFolder(plan.folder.parent)}; there is none"
        require(not resume, "resume", resume, expected)
        return
    typed = [*before.words, *before.search, *(f"{key}={','.join(v)}" for key, v in before.values.items())]
    expected = f"the sweep of the same words: {' '.join(typed)[:300]}"
    require(plan.is_like(before), "resume", RunFolder(before.folder), expected)
    require_plain(before.folder)
    require_harmless(
        before, {*plan.words, *(f"{key}={v}" for key, texts in plan.values.items() for v in texts)}
    )
    plan.folder = before.folder
    plan.values = {key: join(texts, plan.values[key]) for key, texts in before.values.items()}
    plan.__post_init__()


def check_points(plan: Plan, space: Space, more: Sequence[str]) -> dict[str, Any]:
    """Compose and check a run with each value of each key, and return the config of the first one.

    Of several numbers the least and the greatest are tried.

    Raises:
        ConfigError: a word that does not exist, or a value of the wrong kind.
    """
    chosen: list[dict[str, str]] = [{}]
    for key, part in space.items():
        texts = [str(part.low), str(part.high)] if isinstance(part, Range) else plan.values[key]
        numbers = sorted((t for t in texts if re.fullmatch(r"-?\d+(\.\d+)?(e[-+]?\d+)?", t)), key=float)
        texts = list(
            dict.fromkeys([*numbers[:1], *numbers[-1:], *(t for t in texts if t not in set(numbers))])
        )
        chosen = [{**first, key: texts[0]} for first in chosen] + [{**chosen[0], key: t} for t in texts[1:]]
    configs = []
    for values in chosen:
        point = plan.point(values)
        folder = quote_literally(str(point.folder.path))
        configs.append(check_run([*point.words, *more, f"folder={folder}"]))
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
    engine = build("executor", config["executor"], offers)
    plan.write()
    if "sampler" in config["search"]:
        measure = Measure(config["monitor"], config["mode"] == "min")
        drawn = {"plan": plan, "space": sweep.space, "trials": config["trials"], "seed": config["seed"]}
        queue = build("search", config["search"], {**drawn, "measure": measure})
    else:
        queue = Queue(plan.points())
    jobs, threads = (
        value if isinstance(value, int) else None for value in (config["jobs"], config["threads"])
    )
    python = "uv run python" if "UV_RUN_RECURSION_DEPTH" in os.environ else "python"
    sweeping = Sweeping(
        plan.folder, queue, engine, jobs, threads, config["monitor"], config["mode"],
        command=f"{python} {os.path.relpath(script)}",
        apart=([sys.executable, str(script)], str(Path.cwd())), to_recipe=to_recipe,
    )  # fmt: skip
    try:
        return sweeping.conduct()
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
