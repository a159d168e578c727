"""`resume=`: finds the run to continue, and allows only some changes to its config.yaml."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from descent.cli.compose import compose
from descent.cli.overrides import by_key, key_of, list_places, parse, quote
from descent.errors import ConfigError, as_typed
from descent.paths import list_groups
from descent.run.folder import Run, RunFolder, move
from descent.run.saved import find_runs, read_config
from descent.run.trust import list_allowed, read_yaml, require_no_links, require_own_paths

# how long a run trains, on what, and what it prints and saves; anything else would make it a different run
FREE = (
    "trainer.max_epochs", "trainer.max_steps", "trainer.max_time", "trainer.accelerator", "trainer.devices",
    "data.workers", "data.in_memory", "callbacks", "logger", "checkpoint.every", "allow",
)  # fmt: skip
LENGTHS = ("T_max", "total_steps", "total_iters")  # of a schedule; null means the whole run


def find_resumed(value: bool | str | None, folder: Path, words: Sequence[str]) -> RunFolder | None:
    """Return the run that `resume=value` means, or None for a new one.

    True is the newest run of the same overrides next to `folder`, where a new run would go. SLURM repeats the
    command of a job that it requeued, which then continues its run if there is one.
    """
    if value and isinstance(value, str):
        return RunFolder(Path(value).expanduser().resolve())
    again = int(os.environ.get("SLURM_RESTART_COUNT") or 0) > 0
    if not value and not again:
        return None
    for run in find_runs(folder.parent):
        if run.path.parent == folder.parent and is_same(read_yaml(run.overrides), words):
            return run
    if again:
        return None
    expected = f"an earlier run of this command in {os.path.relpath(folder.parent)}; there is none"
    raise ConfigError("resume", True, expected=expected)


def is_same(saved: Any, words: Sequence[str]) -> bool:
    """Whether a file's overrides are these, in any order; of several for one key, the last counts."""
    latest = {key_of(word): word for word in words}
    return isinstance(saved, list) and {key_of(word): word for word in map(str, saved)} == latest


def resume(folder: RunFolder, words: Sequence[str]) -> tuple[dict[str, Any], list[str], Run]:
    """Return a run's config with what typed overrides change in it, all its overrides, and the `Run`."""
    config = read_config(folder)
    require_no_links(folder.path)
    config = move(config, str(config.get("folder")), str(folder.path))
    if "${" in str(config):
        raise ConfigError(str(folder.config), expected="a resolved config, without ${")
    saved = read_yaml(folder.overrides) if folder.overrides.exists() else []
    same = is_same(saved, words)
    before = [str(word) for word in saved] if isinstance(saved, list) and not same else []
    changes = {} if same else find_changes(config, words, before, folder)
    for key, value in changes.items():
        *above, last = key.split(".")
        node = config
        for name in above:
            node = node.setdefault(name, {})
        node[last] = value
    if "checkpoint" not in (config["callbacks"] or {}):
        raise ConfigError("callbacks", expected="the callback checkpoint, which resumes a run")
    values = {key_of(word): parse(word).value() for word in words}
    allowed = list_allowed(words, map(str, values.get("allow", [])), list_places(words))
    own = {group: config.get(group) for group in ("callbacks", "logger", "trainer")}
    require_own_paths(own, folder.path, values)
    merged = {key_of(word): word for word in (*before, *words)}
    run = Run(folder, resumed=True, allowed=allowed, changes=changes, choices=config.pop("choices", {}))
    return config, list(merged.values()), run


def find_changes(
    config: Mapping[str, Any], words: Sequence[str], before: Sequence[str], folder: RunFolder
) -> dict[str, Any]:
    """Return what typed overrides change in a run, by key; only some keys leave it the same run."""
    own = [f"{key}={quote(str(config[key]))}" for key in ("monitor", "mode") if key in config]
    typed = compose("train", [*own, f"folder={quote(str(folder.path))}", *words]).config
    scheduler = config.get("scheduler") or {}
    sized = [name for name in LENGTHS if name in scheduler and scheduler[name] is None]
    changes: dict[str, Any] = {}
    for key in map(key_of, words):
        value, was = select(typed, key), select(config, key)
        steady = key == "optimizer.lr" and not scheduler
        free = steady or any(f"{key}.".startswith(f"{other}.") for other in FREE)
        changed = value != was or key == "experiment"  # whose fields are all over the config
        if changed and not free and key in list_groups():  # a word is shorter than its file's fields
            value, was = by_key(words)[key], by_key(before).get(key) or select(config, f"choices.{key}")
        if value == was:
            continue
        if not free:
            why = f"as in the resumed run; start a new run from its weights by init_from={folder}"
            raise ConfigError(key, value, expected=f"{as_typed(was)}, {why}")
        if sized and key in ("trainer.max_epochs", "trainer.max_steps"):
            why = f"because scheduler.{sized[0]}=null makes the schedule as long as the run"
            raise ConfigError(key, value, expected=f"{as_typed(was)}, {why}")
        changes[key] = value
        if key == "checkpoint.every" and "checkpoint" in config["callbacks"]:
            changes["callbacks.checkpoint.every"] = value
    return changes


def select(node: Any, key: str) -> Any:
    """Return the value of a key such as "trainer.max_epochs", or None if it is missing."""
    for name in key.split("."):
        node = node.get(name) if isinstance(node, Mapping) else None
    return node
