"""From the words of a sweep to its plan: what varies, where it goes, and that every word of it exists."""

import os
import re
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib import import_module
from pathlib import Path
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import OmegaConf, open_dict

from descent.cli.build import build_node
from descent.cli.check import check
from descent.cli.compose import explain, list_fields, resolve_references
from descent.cli.job import raise_first
from descent.cli.paths import CONF, LOGS, ROOT, list_choices, list_groups
from descent.cli.words import by_key, parse, quote_literally
from descent.errors import ConfigError, first_line, require
from descent.run.folder import RunFolder
from descent.run.resume import key_of
from descent.sweep.plan import PLAN, Plan, find_plan, hold, read_plan, require_plain
from descent.sweep.search import Range, load_optuna

# ---- what the core does: these alone know how ----------------------------------------------------------------


def compose(words: Sequence[str]) -> tuple[Any, Any]:
    """Return the config that words give, and Hydra's own part of it.

    Raises:
        ConfigError: they give none.
    """
    from hydra.core.hydra_config import HydraConfig

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


def check_run(words: Sequence[str]) -> dict[str, Any]:
    """Return a run's config as plain values, after every value of it has been checked.

    Raises:
        ConfigError: a word that does not exist, or a value that cannot be.
    """
    from descent.cli.machine_limits import check_machine

    plain = resolve_references(compose(words)[0], by_key(words))
    raise_first(check(plain, by_key(words), list_fields("train")).problems)
    raise_first(check_machine(plain))
    return plain


def build(key: str, node: Mapping[str, Any], offers: Mapping[str, Any]) -> Any:
    """Make the object of a node; its target gets those offers that it names."""
    import inspect

    from hydra.utils import get_class

    named = inspect.signature(get_class(node["_target_"])).parameters
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

# ---- a sweep -------------------------------------------------------------------------------------------------

OWN = ("folder", "name", "resume", "jobs", "trials", "search", "executor")  # about a sweep, not its runs
NEVER = ("allow", "dirpath", "save_dir", "default_root_dir", "root_dir", "log_dir", "filename", "version",
         "sub_dir", "name", "folder", "resume")  # fields that a folder's words may not set  # fmt: skip
Space = dict[str, Range | list[str]]


@dataclass
class Sweep:
    """A sweep whose words have proved good.

    Attributes:
        plan: what is to be run.
        config: of one of the runs, plain values, with those of the groups search and executor.
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
        for key in ("jobs", "search", "trials", "executor"):
            require(key not in own, key, values.get(key), "-m with it, and several values of a word")
        return None
    task = [word for word in words if root_of(word) not in OWN]
    fixed, space, mode = expand(task, before)
    if not multirun and before is None and mode != RunMode.MULTIRUN:
        return None
    if mode == RunMode.MULTIRUN:
        fixed = merge(fixed, ["hydra.mode=RUN"])
    name = str(values.get("name") or name_sweep(fixed, space))
    require(".." not in Path(name).parts, "name", name, "a name that leads nowhere else")
    fresh = LOGS / f"{name}-{datetime.now():%Y%m%d-%H%M%S}"
    folder = Path(str(values.get("folder") or (before.folder if before else fresh))).expanduser().resolve()
    require("${" not in str(folder), "folder", folder, "the folder of the sweep; its runs get folders in it")
    searching = [word for key, word in own.items() if root_of(key) in ("search", "trials")]
    searching = merge(before.search if before else [], searching)
    others = [word for word in own.values() if root_of(word) in ("jobs", "executor")]
    base, _ = compose([*fixed, *searching, *others])
    search = resolve_references(base, by_key(words))["search"]
    plan = make_plan(folder, fixed, space, searching, search)
    settle(plan, values.get("resume"), before)
    config = check_points(plan, space, [*searching, *others], before)
    jobs = config["jobs"]
    require(jobs == "auto" or jobs >= 1, "jobs", jobs, "auto, or how many runs at a time, at least 1")
    require(config["trials"] >= 1, "trials", config["trials"], "how many runs a search makes, at least 1")
    if "sampler" in search:
        expected = "a metric, such as val/acc with mode=max, because values of different losses do not compare"
        mixed = "loss" in {key.partition(".")[0] for key in space} and config["monitor"].endswith("/loss")
        require(not mixed, "monitor", config["monitor"], expected)
    return Sweep(plan, config, space)


def make_plan(
    folder: Path, fixed: Sequence[str], space: Space, searching: list[str], search: Mapping[str, Any]
) -> Plan:
    """Return the plan of what a search draws from, or of every combination.

    Raises:
        ConfigError: a range without a search, or a search without anything to draw from.
    """
    values = {}
    for key, part in space.items():
        if isinstance(part, list):
            values[key] = part
        elif "sampler" in search:
            values[key] = [part.text]
        else:
            expected = "values, such as 0.1,0.2; or search=… with it, which draws from a range"
            require("steps" in search, key, part.text, expected)
            values[key] = part.divide(search["steps"])
    if search:
        require(bool(space), "search", " ".join(searching), "words with several values, or with a range")
    return Plan(folder, list(fixed), values, searching if search else [])


def root_of(word: str) -> str:
    """Return the first part of a word's key."""
    return key_of(word).partition(".")[0]


def merge(saved: Sequence[str], typed: Sequence[str]) -> list[str]:
    """Return words, each key once; what is typed wins."""
    return list({key_of(word): word for word in (*saved, *typed)}.values())


def find_saved(resume: object, typed: Sequence[str]) -> Plan | None:
    """Return the sweep that `resume=` names, if it names one.

    Raises:
        ConfigError: its words are not those of a run, or its folder contains links.
    """
    if not isinstance(resume, str):
        return None
    folder = Path(resume).expanduser().resolve()
    if not (folder / PLAN).exists():
        return None
    require_plain(folder)
    plan = read_plan(folder)
    require_harmless(plan, typed)
    return plan


def require_harmless(plan: Plan, typed: Sequence[str]) -> None:
    """Refuse saved words that set anything but keys of the config to plain values, unless they are typed.

    Raises:
        ConfigError: naming the first one.
    """
    keys = {*list_fields("train"), "experiment"}
    for word in (*plan.words, *plan.search, *(f"{key}={v}" for key, vs in plan.values.items() for v in vs)):
        key, equals, value = word.partition("=")
        parts = key.lstrip("+").split(".")
        good = bool(equals) and parts[0] in keys and not any(p.startswith("_") or p in NEVER for p in parts)
        if good and not re.fullmatch(r"[\w.+-]+", value):
            try:
                good = "/" not in value if key in list_groups() else is_plain(parse(word).value())
            except HydraException:
                good = False
        if not good and word not in typed:
            expected = f"plain values of a run's config, or this word typed again: {word[:200]!r}"
            raise ConfigError(str(plan.folder / PLAN), expected=expected)


def is_plain(value: Any) -> bool:
    """Whether a value names nothing that is called, read or written: no `_target_`, no reference, no path."""
    if isinstance(value, Mapping):
        fields = [str(key) for key in value]
        return not any(f.startswith("_") or f in NEVER for f in fields) and all(map(is_plain, value.values()))
    if isinstance(value, list):
        return all(map(is_plain, value))
    ends = [e for e in (getattr(value, "start", None), getattr(value, "end", None)) if e is not None]
    return "${" not in str(value) and all(isinstance(end, int | float) for end in ends)


def expand(words: Sequence[str], before: Plan | None) -> tuple[list[str], Space, RunMode | None]:
    """Return words that all runs share, the values or the range of each key that varies, and Hydra's mode.

    Args:
        words: as typed.
        before: the sweep that goes on, whose values come first.

    Raises:
        ConfigError: a word that does not exist, or one without values.
    """
    saved = before.words if before else []
    alone = [word for word in merge(saved, words) if not is_several(word)]
    _, own = compose([word for word in alone if key_of(word) not in (before.values if before else {})])
    recipe = [f"{key}={value}" for key, value in (own.sweeper.get("params") or {}).items()]
    fixed: dict[str, str] = {}
    space: Space = {}
    for key, texts in (before.values if before else {}).items():
        space[key] = list(texts)
        if len(texts) == 1 and is_several(f"{key}={texts[0]}"):  # a range
            words = merge([f"{key}={texts[0]}"], words)
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
    for word in merge([*recipe, *saved], words):
        override = parse(word)
        override.config_loader = loader  # glob(*) asks it for the words of a group
        key = override.get_key_element()
        if not override.is_sweep_override() and key not in space:
            fixed[key] = word
        elif not override.is_sweep_override():
            more = [override.get_value_element_as_str()]
            space[key] = join(space[key], more) if before else more
        elif not override.is_discrete_sweep():
            space[key] = read_range(key, word.partition("=")[2], override.value())
        else:
            try:
                more = list(override.sweep_string_iterator())
            except (HydraException, TypeError, ValueError) as error:
                known = ", ".join(list_choices(key)) or first_line(error)
                raise ConfigError(key, word.partition("=")[2], expected=f"values ({known})") from error
            require(bool(more), key, word.partition("=")[2], "at least one value")
            space[key] = join(space.get(key, []), more)
    return list(fixed.values()), space, own.mode


def is_several(word: str) -> bool:
    """Whether a word has several values, or a range."""
    return bool(parse(word).is_sweep_override())


def join(first: Any, more: Sequence[str]) -> list[str]:
    """Return values, each once."""
    return list(dict.fromkeys([*(first if isinstance(first, list) else []), *more]))


def read_range(key: str, text: str, interval: Any) -> Range:
    """Return an interval of Hydra's, such as `tag(log,interval(1e-4,1))` or `int(interval(1,8))`."""
    log, low, high = "log" in interval.tags, interval.start, interval.end
    numbers = isinstance(low, int | float) and isinstance(high, int | float)
    good = numbers and (0 if log else -float("inf")) < low < high < float("inf")
    require(good, key, text, "an interval from a lower to a higher number")
    return Range(low, high, log, text)


def name_sweep(fixed: Sequence[str], space: Collection[str]) -> str:
    """Return `loss-optimizer-seed-max_epochs=3`: what varies, and then what else was typed."""
    varying = [key.lstrip("+~").rpartition(".")[2] for key in space]
    typed = [
        word.partition("=")[2] if key_of(word) == "experiment" else word.rpartition(".")[2]
        for word in fixed if not key_of(word).startswith("hydra")
    ]  # fmt: skip
    return re.sub(r"[^\w.=+-]+", "_", "-".join([*varying, *typed]))[:100] or "sweep"


def settle(plan: Plan, resume: object, before: Plan | None) -> None:
    """Go on with the sweep that is there where that was asked for, and make sure that it is the same.

    Raises:
        ConfigError: it is another one, or there is none, or one that was not to be resumed.
    """
    again = int(os.environ.get("SLURM_RESTART_COUNT") or 0) > 0
    if before is None and (plan.folder / PLAN).exists():
        expected = "a folder without a sweep in it, or resume=true, which goes on with that one"
        require(bool(resume) or again, "folder", RunFolder(plan.folder), expected)
        require_plain(plan.folder)
        before = read_plan(plan.folder)
    elif before is None and resume is True:
        before = find_plan(plan, plan.folder.parent)
    if before is None and not resume:
        return
    if before is None:
        expected = f"a sweep of these words in {RunFolder(plan.folder.parent)}; there is none"
        raise ConfigError("resume", resume, expected=expected)
    if not plan.is_like(before):
        typed = [*before.words, *before.search, *(f"{key}={','.join(v)}" for key, v in before.values.items())]
        expected = f"the sweep of the same words: {' '.join(typed)[:300]}"
        raise ConfigError("resume", RunFolder(before.folder), expected=expected)
    require_plain(before.folder)
    plan.folder = before.folder
    plan.values = {key: join(values, plan.values[key]) for key, values in before.values.items()}
    plan.__post_init__()


def check_points(
    plan: Plan, space: Space, more: Sequence[str], before: Plan | None
) -> dict[str, Any]:
    """Compose and check a run with each value of each key, and return the config of the first one.

    Of many numbers the least and the greatest are tried.

    Raises:
        ConfigError: a word that does not exist, or a value of the wrong kind.
    """
    tried = {}
    for key, part in space.items():
        texts = [str(part.low), str(part.high)] if isinstance(part, Range) else part
        numbers = sorted((t for t in texts if re.fullmatch(r"-?\d+(\.\d+)?(e[-+]?\d+)?", t)), key=float)
        tried[key] = [*dict.fromkeys(numbers[:1] + numbers[-1:]), *(t for t in texts if t not in set(numbers))]
    first = {key: values[0] for key, values in tried.items()}
    chosen = [first, *({**first, key: v} for key, values in tried.items() for v in values[1:])]
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
    from descent.sweep.conduct import Answer, Conductor, Queue, conduct
    from descent.sweep.ranking import Measure

    plan, config, script = sweep.plan, sweep.config, Path(sys.argv[0]).resolve()
    python = "uv run python" if "UV_RUN_RECURSION_DEPTH" in os.environ else "python"
    source = str(ROOT / "src")  # processes elsewhere find the package where this one did
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [source, os.environ.get("PYTHONPATH")]))
    with hold(plan.folder):
        offers = {"call": run_command, "config": config, "folder": plan.folder}
        engine = build("executor", config["executor"], offers)
        plan.write()
        if "sampler" in config["search"]:
            measure = Measure(config["monitor"], config["mode"] == "min", "")
            drawn = {"plan": plan, "space": sweep.space, "trials": config["trials"]}
            drawn |= {"seed": config["seed"], "measure": measure}
            queue = build("search", config["search"], drawn)
        else:
            queue = Queue(plan.points())
        jobs, threads = (v if isinstance(v, int) else None for v in (config["jobs"], config["threads"]))
        conductor = Conductor(queue, engine, jobs, threads, ([sys.executable, str(script)], os.getcwd()))
        answer = Answer(config["monitor"], config["mode"], f"{python} {os.path.relpath(script)}", to_recipe)
        return conduct(plan, conductor, answer)


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
