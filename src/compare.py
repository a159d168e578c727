"""Runs side by side, ranked: `python src/compare.py logs/a logs/b`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from descent.cli.main import main
from descent.errors import ConfigError, require

if TYPE_CHECKING:
    from collections.abc import Sequence

    from descent.build import Config
    from descent.run.folder import RunFolder

UNLIKE = ("name", "folder", "resume", "jobs")  # keys that do not affect what a run computes


def compare(config: Config) -> None:
    """Print the runs of some folders side by side, and write table and pictures where `output` says."""
    from descent.run.trust import read_yaml
    from descent.sweep.plan import Point
    from descent.sweep.ranking import Measure, choose_measure, collect, is_less_better, list_figures, rank
    from descent.sweep.tables import FILES, publish, show

    folders = find_folders(config.runs)
    points = [Point(chosen, (), run) for chosen, run in zip(tell_apart(folders), folders, strict=True)]
    rows = collect(points)
    require(bool(rows), "runs", " ".join(config.runs), "finished runs")
    measure = choose_measure(read_yaml(folders[0].config), rows)
    if config.by is not None:
        measure = Measure(config.by, is_less_better(config.by))
    if not (ranked := rank(rows, measure)):
        there = list_figures(rows)
        raise ConfigError("by", measure.metric, expected=f"one of {', '.join(there)}", choices=there)
    print(show(ranked, measure))
    lacking = [row.points[r] for row in rows for r, f in row.figures.items() if measure.metric not in f]
    if lacking:
        print(f"Without {measure.metric}: {', '.join(str(point.folder) for point in lacking)}")
    if unfinished := [str(point.folder) for point in points if point.state() != "done"]:
        print(f"Unfinished: {', '.join(unfinished)}")
    if config.output is not None:
        folder = Path(config.output).expanduser()
        good = not folder.exists() or (folder.is_dir() and {path.name for path in folder.iterdir()} <= FILES)
        require(good, "output", config.output, "a new folder, or one of an earlier comparison")
        folder.mkdir(parents=True, exist_ok=True)
        publish(ranked, measure, folder)
        print(f"Written to {config.output}")


def find_folders(paths: Sequence[str]) -> list[RunFolder]:
    """Return the runs that paths and patterns name, in their order, each once."""
    from glob import glob

    from descent.run.saved import find_runs

    found: dict[Path, RunFolder] = {}
    for path in paths:
        places = [path] if Path(path).exists() else sorted(glob(path))  # noqa: PTH207 (may be absolute)
        runs = [run for place in places for run in find_runs(Path(place).resolve())]
        if not runs:
            siblings = [str(other) for other in Path(path).parent.glob("*/")]
            expected = "the folder of a run, or one that contains runs"
            raise ConfigError("runs", path, expected=expected, choices=siblings)
        found |= {run.path: run for run in sorted(runs, key=lambda run: run.path)}
    require(bool(found), "runs", [], "folders of runs: python src/compare.py logs/a logs/b")
    return list(found.values())


def tell_apart(folders: Sequence[RunFolder]) -> list[dict[str, str]]:
    """Return each run's typed values that differ between runs, by key; `–` if a run has none."""
    from descent.run.trust import read_yaml

    lines = [read_yaml(folder.overrides) if folder.overrides.is_file() else [] for folder in folders]
    typed = [dict(str(word).lstrip("+").partition("=")[::2] for word in line or ()) for line in lines]
    keys = [key for key in dict.fromkeys(key for run in typed for key in run) if key not in UNLIKE]
    apart = [key for key in keys if len({run.get(key) for run in typed}) > 1]
    return [{key: run.get(key, "–") for key in apart} for run in typed]


if __name__ == "__main__":
    main(compare, "compare")
