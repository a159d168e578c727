"""`resume=`: finds the run to continue, and allows only some changes to its config.yaml."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from descent.cli.compose import compose
from descent.cli.overrides import by_key, key_of, parse, quote
from descent.errors import ConfigError, as_typed
from descent.run.folder import RunFolder, move
from descent.run.saved import read_config
from descent.run.trust import list_allowed, read_yaml, require_no_links, require_own_paths

# how long a run trains, on what, and what it prints and saves; anything else would make it a different run
FREE = (
    "trainer.max_epochs", "trainer.max_steps", "trainer.max_time", "trainer.accelerator", "trainer.devices",
    "data.workers", "data.in_memory", "callbacks", "logger", "checkpoint.every", "allow",
)  # fmt: skip
LENGTHS = ("T_max", "total_steps", "total_iters")  # of a schedule; null means the whole run


def find_resumed(value: bool | str | None, folder: Path, words: Sequence[str]) -> RunFolder | None:
    """Return the run to resume, or None for a new one.

    Args:
        value: of `resume`: a run's folder, or True for the newest run with the same overrides. SLURM repeats
            the command of a job that it requeued, which then continues its run if there is one.
        folder: where a new run would go; the runs next to it are searched.
        words: overrides, without `resume`.

    Raises:
        ConfigError: there is no such run.
    """
    if value and isinstance(value, str):
        return RunFolder(Path(value).expanduser().resolve())
    again = int(os.environ.get("SLURM_RESTART_COUNT") or 0) > 0
    if not value and not again:
        return None
    name = RunFolder(folder).overrides.name
    runs = [RunFolder(path.parent) for path in folder.parent.glob(f"*/{name}") if path.is_file()]
    for run in sorted(runs, key=lambda run: run.overrides.stat().st_mtime_ns, reverse=True):
        if is_same(read_yaml(run.overrides), words):
            return run
    if again:
        return None
    expected = f"a run of this same command in {os.path.relpath(folder.parent)}; there is none"
    raise ConfigError("resume", True, expected=expected)


def is_same(saved: Any, words: Sequence[str]) -> bool:
    """Whether a file's overrides are these, in any order."""
    return isinstance(saved, list) and sorted(map(str, saved)) == sorted(words)


def resume(
    folder: RunFolder, words: Sequence[str]
) -> tuple[dict[str, Any], list[str], dict[str, Any], set[str]]:
    """Return a run's config with the typed overrides, all overrides, the changes by key, and allowed names.

    Args:
        folder: the run's folder.
        words: typed overrides, without `resume`.

    Raises:
        ConfigError: no run, one that may not be trusted, or an override that would make it a different run.
    """
    saved, typed = read_config(folder), by_key(words)
    require_no_links(folder.path)
    config = move(saved, str(saved.get("folder")), str(folder.path))
    if "${" in str(config):
        raise ConfigError(str(folder.config), expected="a resolved config, without ${")
    before = read_yaml(folder.overrides) if folder.overrides.exists() else []
    same = is_same(before, words)
    changes = {} if same else change(config, words, folder)
    if "checkpoint" not in (config["callbacks"] or {}):
        raise ConfigError("callbacks", expected="the callback checkpoint, which goes on with a run")
    lists = {key_of(w): parse(w).value() for w in words if key_of(w) in ("allow", "hydra.searchpath")}
    places = [Path(place.removeprefix("file://")) for place in lists.get("hydra.searchpath", [])]
    allowed = list_allowed(words, map(str, lists.get("allow", [])), places)
    own = {group: config.get(group) for group in ("callbacks", "logger", "trainer")}
    require_own_paths(own, folder.path, typed)
    merged = {key_of(word): word for word in (*(map(str, before) if not same else ()), *words)}
    return config, list(merged.values()), changes, allowed


def change(config: dict[str, Any], words: Sequence[str], folder: RunFolder) -> dict[str, Any]:
    """Apply typed overrides to a run's config, and return the changes, by key.

    Raises:
        ConfigError: an override that would make it a different run.
    """
    own = [f"{key}={quote(str(config[key]))}" for key in ("monitor", "mode") if key in config]
    typed = compose("train", [*own, f"folder={quote(str(folder.path))}", *words]).config
    scheduler = config.get("scheduler") or {}
    sized = [name for name in LENGTHS if name in scheduler and scheduler[name] is None]
    changes: dict[str, Any] = {}
    for key in map(key_of, words):
        value, was = select(typed, key), select(config, key)
        if value == was:
            continue
        steady = key == "optimizer.lr" and not scheduler
        why = ""
        if not steady and not any(f"{key}.".startswith(f"{free}.") for free in FREE):
            why = (
                f"as in the run that is resumed; a new run can start from its weights, by init_from={folder}"
            )
        elif sized and key in ("trainer.max_epochs", "trainer.max_steps"):
            why = f"because scheduler.{sized[0]}=null makes the schedule as long as the run"
        if why:
            raise ConfigError(key, value, expected=f"{as_typed(was)}, {why}")
        changes[key] = value
        put(config, key, value)
        if key == "checkpoint.every" and "checkpoint" in config["callbacks"]:
            put(config, "callbacks.checkpoint.every", value)
    return changes


def select(node: Mapping[str, Any], key: str) -> Any:
    """Return the value of a key such as "trainer.max_epochs", or None if it is missing."""
    found: Any = node
    for name in key.split("."):
        found = found.get(name) if isinstance(found, Mapping) else None
    return found


def put(node: dict[str, Any], key: str, value: Any) -> None:
    """Set the value of a key such as "trainer.max_epochs"."""
    *above, last = key.split(".")
    for name in above:
        node = node.setdefault(name, {})
    node[last] = value
