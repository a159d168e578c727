"""Which run `resume=` means, and whether that run can go on: what its folder says is data, not code."""

import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from descent.errors import ConfigError, as_typed, require
from descent.run.folder import PARTS, RunFolder, read_yaml
from descent.run.trust import kind_of, resolve_trusted, targets

WORD = re.compile(r"[+~]{0,2}(?P<key>[A-Za-z_][\w-]*(\.[\w-]+)*)(=(?P<value>.*))?", re.DOTALL)
KEPT = ("data", "model", "loss", "metrics", "module", "scheduler", "seed", "init_from", "freeze")
ELSEWHERE = ("data.in_memory", "data.workers")  # who reads the data, and when: the batches are the same
MATHEMATICS = (
    "precision", "accumulate_grad_batches", "gradient_clip_val", "gradient_clip_algorithm", "overfit_batches",
    "limit_train_batches", "limit_val_batches", "val_check_interval", "check_val_every_n_epoch",
    "sync_batchnorm", "use_distributed_sampler", "reload_dataloaders_every_n_epochs",
)  # fmt: skip
STATELESS = ("progress", "summary", "nan_guard", "best_weights", "checkpoint", "csv_lines")
LENGTHS = ("T_max", "total_steps", "total_iters")  # of a schedule; null is the whole run
FOLDERS = ("folder", "dirpath", "save_dir", "default_root_dir", "root_dir", "log_dir")  # that a run writes to
NAMES = ("filename", "name", "version", "sub_dir")  # of what it writes there


def read_words(folder: RunFolder, keys: Collection[str], groups: Collection[str]) -> list[str]:
    """Return the words that a run was started with.

    Args:
        folder: of the run.
        keys: that the config has at its root.
        groups: those of them that are chosen by a word.

    Raises:
        ConfigError: the folder holds no run, or words that no command line of a run has.
    """
    if not folder.overrides.exists():
        expected = f"the folder of a run; it has no {folder.overrides.name}"
        raise ConfigError("resume", str(folder.path), expected=expected)
    words = read_yaml(folder.overrides)
    for word in words if isinstance(words, list) else [None]:
        if not is_word(word, keys, groups):
            expected = f"keys of the config and words of its groups, and no {str(word)[:200]!r}"
            raise ConfigError(str(folder.overrides), expected=expected)
    return [str(word) for word in words]


def is_word(word: object, keys: Collection[str], groups: Collection[str]) -> bool:
    """Whether something is a key of the config with its value, or a group with one of its files."""
    found = WORD.fullmatch(word) if isinstance(word, str) else None
    if found is None or found["key"].partition(".")[0] not in keys:
        return False
    # a file of a group lies beside the others: its name leads nowhere else, and is none that is put together
    return found["key"] not in groups or re.search(r"[/\\$]|\.\.", found["value"] or "") is None


def find_run(resume: object, folder: Path, words: Sequence[str]) -> RunFolder | None:
    """Return the run to resume, or None for a new one.

    Args:
        resume: None or False for a new run, True for the newest one of the same words, or a run's folder.
        folder: where a new run would go; runs beside it are looked at.
        words: of the command line, without `resume`.

    Raises:
        ConfigError: there is no such run.
    """
    expected = "true, false, null, or the folder of a run"
    require(isinstance(resume, bool | str | None), "resume", resume, expected)
    if isinstance(resume, str):
        return RunFolder(Path(resume))
    again = int(os.environ.get("SLURM_RESTART_COUNT") or 0) > 0  # SLURM runs a requeued job's command again
    if not resume and not again:
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


def read_config(folder: RunFolder) -> dict[str, Any]:
    """Return the config of a run that is to be resumed.

    Raises:
        ConfigError: it is no run's.
    """
    config = read_yaml(folder.config)
    kinds = {"name": str, "folder": str, **dict.fromkeys((*PARTS, "optimizer", "callbacks", "trainer"), dict)}
    if not isinstance(config, dict) or not all(isinstance(config.get(k), kind) for k, kind in kinds.items()):
        expected = f"the folder of a run; its {folder.config.name} is not one"
        raise ConfigError("resume", str(folder.path), expected=expected)
    return config


def require_same(
    folder: RunFolder,
    before: Mapping[str, Any],
    now: Mapping[str, Any],
    raw: Mapping[str, Any],
    typed: Collection[str],
) -> None:
    """Refuse to go on with a run whose values differ where no word was typed that says so.

    Args:
        folder: of the run.
        before: the config that it had.
        now: the config that it would have.
        raw: the same, with references such as `${on_nan}` as they are.
        typed: the keys that the command line sets, without those that the folder says.

    Raises:
        ConfigError: naming the first one.
    """
    old, references = dict(flatten(before)), dict(flatten(raw))
    for key, value in flatten(now):
        was = old.get(key)
        if isinstance(was, str):
            was = was.replace(str(before["folder"]), str(folder.path))
        referred = re.findall(r"\$\{([\w.]+)\}", str(references.get(key)))
        known = key in old and key != "resume"
        if was != value and known and not any(is_set(k, typed) for k in (key, *referred)):
            expected = f"that {key} stays {as_typed(was)}; it would be {as_typed(value)} now"
            raise ConfigError("resume", str(folder), expected=expected)


def require_kept(
    folder: RunFolder, before: Mapping[str, Any], now: Mapping[str, Any], typed: Collection[str]
) -> None:
    """Refuse words that would make another run of the one that is resumed.

    Args:
        folder, before, now, typed: as of `require_same`.

    Raises:
        ConfigError: naming the first one.
    """
    old = dict(flatten(before))
    for key, value in flatten(now):
        was = old.get(key)
        if isinstance(was, str):
            was = was.replace(str(before["folder"]), str(folder.path))
        known = key in old or is_set(key, typed)  # else it is one that the target does not take
        if was != value and known and is_kept(key, before):
            way = f"a new run can start from its weights, by init_from={folder}"
            expected = f"{as_typed(was)}, as in the run that is resumed; {way}"
            raise ConfigError(key, value, expected=expected)
    if "checkpoint" not in (now.get("callbacks") or {}):
        raise ConfigError("callbacks", expected="the callback checkpoint, which goes on with a run")
    sized = [
        name for name, value in (now.get("scheduler") or {}).items() if name in LENGTHS and value is None
    ]
    for key in ("trainer.max_epochs", "trainer.max_steps"):
        value, was = (dict(flatten(config)).get(key) for config in (now, before))
        if sized and value != was:
            expected = f"{as_typed(was)}, for scheduler.{sized[0]}=null makes the schedule as long as the run"
            raise ConfigError(key, value, expected=expected)


def is_kept(key: str, before: Mapping[str, Any]) -> bool:
    """Whether a value is what a run is made of, and not how far it goes, on what, or what it tells."""
    group, _, field = key.partition(".")
    if group == "callbacks":  # those that keep a state of their own
        name = field.partition(".")[0]
        return name in before["callbacks"] and name not in STATELESS
    if group == "trainer":
        return field in MATHEMATICS
    return (group in KEPT and key not in ELSEWHERE) or key == "optimizer._target_"


def require_harmless(
    folder: RunFolder,
    config: Mapping[str, Any],
    typed: Mapping[str, str],
    known: Collection[tuple[str, str]],
) -> None:
    """Refuse a run whose folder names code that is not its own, or leads to files outside the folder.

    Args:
        folder: of the run.
        config: that it would have, plain values.
        typed: what the command line sets, by key, without what the folder says.
        known: targets that a person's own files in conf/ name, each with its kind.

    Raises:
        ConfigError: naming the key.
    """
    for key, target in targets(config):
        kind = kind_of(key)
        if (kind, str(target)) not in known and not any(str(target) in value for value in typed.values()):
            resolve_trusted(f"{key}._target_", target, kind)
    root = folder.path.resolve()
    files = (
        *folder.files(),
        folder.metrics,
        *(folder.weights(name) for name in ("best", "last", "previous")),
    )
    for path in folder.path.rglob("*"):
        kept = path.is_file() or (path.is_dir() and path not in files)
        if not kept or not path.resolve().is_relative_to(root):
            expected = "a folder of files, without pipes, devices and links that lead elsewhere, such as"
            raise ConfigError("resume", str(folder), expected=f"{expected} {path.relative_to(folder.path)}")
    for key, value in texts(config):
        field, part = key.rpartition(".")[2], key.partition(".")[0]
        if is_set(key, typed):
            continue
        if "._args_." in key:
            raise ConfigError(key, value, expected="arguments by their names, or this word typed again")
        if part not in ("callbacks", "logger", "trainer") or field not in (*FOLDERS, *NAMES):
            continue
        path = Path(value).expanduser() if field in FOLDERS else folder.path / value
        if "://" in value or not path.resolve().is_relative_to(root):
            raise ConfigError(key, value, expected="a path in the run's folder, or this word typed again")


def merge_words(saved: Sequence[str], typed: Sequence[str]) -> list[str]:
    """Return the words of a resumed run: those it had, and behind them the new ones, each key once."""
    words: dict[str, str] = {}
    for word in (*saved, *typed):
        words.pop(key_of(word), None)
        words[key_of(word)] = word
    return list(words.values())


def key_of(word: str) -> str:
    """Return the key that a word sets: `optimizer.lr` for `++optimizer.lr=0.1`."""
    return word.lstrip("+~").partition("=")[0]


def is_set(key: str, typed: Collection[str]) -> bool:
    """Whether a typed key sets this one: it is the same, or above it."""
    return any(key == word or key.startswith(f"{word}.") for word in typed)


def texts(node: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Yield every text in nested dicts and lists, with its key."""
    if isinstance(node, str):
        yield key, node
    items = node.items() if isinstance(node, Mapping) else enumerate(node if isinstance(node, list) else ())
    for name, value in items:
        yield from texts(value, f"{key}.{name}" if key else str(name))


def flatten(node: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every value in nested dicts, with its key; an empty dict is a value."""
    for name, value in node.items():
        if isinstance(value, Mapping) and value:
            yield from flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
