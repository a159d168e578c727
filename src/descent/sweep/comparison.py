"""Compares any runs side by side: ranked, with a row for each typed choice."""

from collections.abc import Sequence
from glob import glob
from pathlib import Path

from descent.errors import ConfigError, require
from descent.run.folder import RunFolder, find_runs
from descent.run.trust import read_yaml
from descent.sweep.plan import Point
from descent.sweep.ranking import Measure, choose_measure, collect, is_less_better, publish, rank, show

PLACES = ("name", "folder", "resume", "jobs")  # keys that do not affect what a run computes
FILES = {"ranking.csv", "ranking.md", "curves.png", "line.png", "map.png"}


def compare(paths: Sequence[str], by: str | None, output: str | None) -> str:
    """Rank runs, write a table and pictures to a folder if one is named, and return the ranking in words.

    Args:
        paths: folders of runs, or with runs in them, or patterns.
        by: the metric to rank by; None for what the first run monitors.
        output: a new folder, or one of an earlier comparison; None to write nothing.

    Raises:
        ConfigError: there are no runs that have ended, or none with that metric.
    """
    folders = find_folders(paths)
    points = [Point(chosen, (), folder) for chosen, folder in zip(tell_apart(folders), folders, strict=True)]
    rows = collect(points)
    require(bool(rows), "runs", " ".join(paths), "runs that have come to their end")
    config, figures = read_yaml(folders[0].config), next(iter(rows[0].figures.values()))
    measure = choose_measure(str(config["monitor"]), str(config["mode"]), points[0].values, figures)
    if by is not None:
        measure = Measure(by, is_less_better(by), f"{by} at each run's best epoch")
    if not (ranked := rank(rows, measure)):
        raise ConfigError("by", measure.metric, expected=f"one of {', '.join(figures)}", choices=figures)
    text = show(ranked, measure)
    if unfinished := [str(point.folder) for point in points if point.state() != "done"]:
        text += f"\nNot at their end: {', '.join(unfinished)}"
    if output is not None:
        folder = Path(output).expanduser()
        good = not folder.exists() or (folder.is_dir() and {path.name for path in folder.iterdir()} <= FILES)
        require(good, "output", output, "a new folder, or one of an earlier comparison")
        folder.mkdir(parents=True, exist_ok=True)
        publish(ranked, measure, folder)
        text += f"\nWritten to {output}"
    return text


def find_folders(paths: Sequence[str]) -> list[RunFolder]:
    """Return the runs that paths and patterns name, in their order, each once."""
    found: dict[Path, RunFolder] = {}
    for path in paths:
        places = [path] if Path(path).exists() else sorted(glob(path))  # noqa: PTH207 (may be absolute)
        runs = [run for place in places for run in find_runs(Path(place).resolve())]
        if not runs:
            siblings = [str(other) for other in Path(path).parent.glob("*/")]
            expected = "the folder of a run, or one with runs in it"
            raise ConfigError("runs", path, expected=expected, choices=siblings)
        found |= {run.path: run for run in sorted(runs, key=lambda run: run.path)}
    require(bool(found), "runs", [], "folders of runs: python src/compare.py logs/a logs/b")
    return list(found.values())


def tell_apart(folders: Sequence[RunFolder]) -> list[dict[str, str]]:
    """Return each run's typed values that differ between runs, by key; `–` if a run has none."""
    lines = [read_yaml(folder.overrides) if folder.overrides.is_file() else [] for folder in folders]
    typed = [dict(str(word).lstrip("+").partition("=")[::2] for word in line or ()) for line in lines]
    keys = [key for key in dict.fromkeys(key for run in typed for key in run) if key not in PLACES]
    apart = [key for key in keys if len({run.get(key) for run in typed}) > 1]
    return [{key: run.get(key, "–") for key in apart} for run in typed]
