"""`resume=`: finds the run to continue, and allows only some changes to its config.yaml."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from descent.cli.compose import compose
from descent.cli.overrides import by_key, key_of, quote
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


def find_resumed(value: Any, folder: Path, words: Sequence[str]) -> RunFolder | None:
    """Return the run to resume, or None for a new one.

    Args:
        value: of `resume`: None or False for a new run, True for the newest one with the same overrides, or a
            run's folder.
        folder: where a new run would go; the runs next to it are searched.
        words: overrides, without `resume`.

    Raises:
        ConfigError: there is no such run.
    """
    if isinstance(value, str):
        return RunFolder(Path(value).expanduser().resolve())
    again = int(os.environ.get("SLURM_RESTART_COUNT") or 0) > 0  # SLURM repeats a requeued job's command
    if not value and not again:
        return None
    name = RunFolder(folder).overrides.name
    runs = [RunFolder(path.parent) for path in folder.parent.glob(f"*/{name}") if path.is_file()]
    runs.sort(key=lambda run: run.overrides.stat().st_mtime_ns, reverse=True)
    for run in runs:
        saved = read_yaml(run.overrides)
        if isinstance(saved, list) and sorted(map(str, saved)) == sorted(words):
            return run
    if again:
        return None
    expected = f"a run of this same command in {os.path.relpath(folder.parent)}; there is none"
    raise ConfigError("resume", True, expected=expected)


def resume(
    folder: RunFolder, words: Sequence[str], places: Sequence[Path] = ()
) -> tuple[dict[str, Any], list[str], dict[str, Any], set[str]]:
    """Return a run's config with the typed overrides, all overrides, the changes by key, and allowed names.

    Args:
        folder: the run's folder.
        words: typed overrides, without `resume`.
        places: folders of config files in addition to conf/.

    Raises:
        ConfigError: no run, one that may not be trusted, or an override that would make it a different run.
    """
    saved, typed = read_config(folder), by_key(words)
    require_no_links(folder.path)
    config = move(saved, str(saved.get("folder")), str(folder.path))
    if any("${" in text for text in list_strings(config)):
        raise ConfigError(str(folder.config), expected="a resolved config, without ${")
    before = read_yaml(folder.overrides) if folder.overrides.exists() else []
    same = isinstance(before, list) and sorted(map(str, before)) == sorted(words)
    changes = {} if same else change(config, words, folder, places)
    if "checkpoint" not in (config["callbacks"] or {}):
        raise ConfigError("callbacks", expected="the callback checkpoint, which goes on with a run")
    more = [name.strip("'\" ") for name in typed.get("allow", "").strip("[]").split(",")]
    allowed = list_allowed(words, filter(None, more), places)
    own = {group: config.get(group) for group in ("callbacks", "logger", "trainer")}
    require_own_paths(own, folder.path, typed)
    merged = {key_of(word): word for word in (*(map(str, before) if not same else ()), *words)}
    return config, list(merged.values()), changes, allowed


def change(
    config: dict[str, Any], words: Sequence[str], folder: RunFolder, places: Sequence[Path]
) -> dict[str, Any]:
    """Apply typed overrides to a run's config, and return the changes, by key.

    Raises:
        ConfigError: an override that would make it a different run.
    """
    kept = {key: config[key] for key in ("monitor", "mode") if key in config}
    own = [f"{key}={quote(str(value))}" for key, value in kept.items()]
    typed = compose("train", [*own, f"folder={quote(str(folder.path))}", *words], places).config
    changes: dict[str, Any] = {}
    for key in map(key_of, words):
        value, was = select(typed, key), select(config, key)
        if value == was:
            continue
        steady = key == "optimizer.lr" and not config.get("scheduler")
        if not steady and not any(key == free or key.startswith(f"{free}.") for free in FREE):
            way = f"a new run can start from its weights, by init_from={folder}"
            expected = f"{as_typed(was)}, as in the run that is resumed; {way}"
            raise ConfigError(key, value, expected=expected)
        sized = [
            n for n in LENGTHS if n in (config.get("scheduler") or {}) and config["scheduler"][n] is None
        ]
        if sized and key in ("trainer.max_epochs", "trainer.max_steps"):
            expected = (
                f"{as_typed(was)}, because scheduler.{sized[0]}=null makes the schedule as long as the run"
            )
            raise ConfigError(key, value, expected=expected)
        changes[key] = value
        put(config, key, value)
        if key == "checkpoint.every" and "checkpoint" in config["callbacks"]:
            put(config, "callbacks.checkpoint.every", value)
    return changes


def list_strings(node: Any) -> list[str]:
    """Return all texts and keys in nested values."""
    if isinstance(node, dict):
        return [*map(str, node), *(text for value in node.values() for text in list_strings(value))]
    if isinstance(node, list):
        return [text for value in node for text in list_strings(value)]
    return [node] if isinstance(node, str) else []


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
