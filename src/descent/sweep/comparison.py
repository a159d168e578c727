"""Any runs side by side: ranked, a row for each choice that their configs show."""

from collections.abc import Iterator, Mapping, Sequence
from glob import glob
from pathlib import Path
from typing import Any

from descent.errors import ConfigError, as_typed
from descent.run.folder import RunFolder, find_runs, read_yaml
from descent.sweep.plan import Point
from descent.sweep.ranking import Measure, choose_measure, collect, is_less_better, publish, rank, show

PLACES = ("name", "folder", "resume", "jobs")  # fields of a config that say nothing of what a run computes
FILES = {"ranking.csv", "ranking.md", "curves.png", "line.png", "map.png"}


def compare(paths: Sequence[str], by: str | None, output: str | None) -> str:
    """Rank runs, write table and pictures into a folder where one is named, and return the ranking in words.

    Args:
        paths: folders of runs, or with runs in them, or patterns.
        by: the metric to rank by; None for what the first run monitors.
        output: a new folder, or one of an earlier comparison; None to write nothing.

    Raises:
        ConfigError: there are no runs that have ended, or none with that metric.
    """
    folders = find_folders(paths)
    configs = [read_yaml(folder.config) for folder in folders]
    values = tell_apart([describe(*pair) for pair in zip(folders, configs, strict=True)])
    points = [Point(chosen, (), folder) for chosen, folder in zip(values, folders, strict=True)]
    if not (rows := collect(points)):
        raise ConfigError("runs", " ".join(paths), expected="runs that have come to their end")
    figures = next(iter(rows[0].figures.values()))
    measure = choose_measure(str(configs[0].get("monitor")), str(configs[0].get("mode")), values[0], figures)
    if by is not None:
        measure = Measure(by, is_less_better(by), f"{by} at each run's best epoch")
    if not (ranked := rank(rows, measure)):
        raise ConfigError("by", measure.metric, expected=f"one of {', '.join(figures)}", choices=figures)
    text = show(ranked, measure)
    if unfinished := [str(point.folder) for point in points if point.state() != "done"]:
        text += f"\nNot at their end: {', '.join(unfinished)}"
    if output is not None:
        folder = Path(output).expanduser()
        if folder.exists() and not (folder.is_dir() and {path.name for path in folder.iterdir()} <= FILES):
            raise ConfigError("output", output, expected="a new folder, or one of an earlier comparison")
        folder.mkdir(parents=True, exist_ok=True)
        publish(ranked, measure, folder)
        text += f"\nWritten to {output}"
    return text


def find_folders(paths: Sequence[str]) -> list[RunFolder]:
    """Return the runs that paths and patterns name, in their order, each once.

    Raises:
        ConfigError: one of them names none.
    """
    found: dict[Path, RunFolder] = {}
    for path in paths:
        places = [path] if Path(path).exists() else sorted(glob(path))  # noqa: PTH207 (may be absolute)
        runs = [run for place in places for run in find_runs(Path(place).resolve())]
        if not runs:
            siblings = [str(p.with_name(p.name)) for p in Path(path).parent.glob("*") if p.is_dir()]
            expected = "the folder of a run, or one with runs in it"
            raise ConfigError("runs", path, expected=expected, choices=siblings)
        found |= {run.path: run for run in sorted(runs, key=lambda run: run.path)}
    if not found:
        raise ConfigError("runs", [], expected="folders of runs: python src/compare.py logs/a logs/b")
    return list(found.values())


def describe(folder: RunFolder, config: Any) -> dict[str, str]:
    """Return what a run's config says, by key; of a group the word that was typed, or else its class."""
    if not isinstance(config, dict):
        raise ConfigError(str(folder.config), expected="the config of a run")
    words = read_yaml(folder.overrides) if folder.overrides.is_file() else []
    typed = dict(str(word).lstrip("+").partition("=")[::2] for word in words or ())
    found, here = {}, str(config.get("folder"))
    for path, value in flatten(config):
        key = path.removesuffix("._target_")
        text = as_typed(value) if key == path else typed.get(key) or str(value).rpartition(".")[2]
        if key not in PLACES:
            found[key] = text.replace(here, "…")
    return found


def flatten(node: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every value in nested dicts, with its key."""
    for name, value in node.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def tell_apart(runs: Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
    """Return of each run the values that differ between runs.

    A key that only some runs have is left out, and one that differs as an earlier one does: `optimizer.lr`
    where it is another one for each optimizer.
    """
    columns: dict[tuple[int, ...], str] = {(0,) * len(runs): ""}
    for key in runs[0]:
        if all(key in run for run in runs):
            column = [run[key] for run in runs]
            columns.setdefault(tuple(map(column.index, column)), key)
    return [{key: run[key] for key in columns.values() if key} for run in runs]
