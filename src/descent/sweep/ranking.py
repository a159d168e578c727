"""Ranks choices, of a sweep or of any runs: means over seeds, and which differences their spread supports."""

import math
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from glob import glob
from pathlib import Path
from statistics import mean, stdev
from typing import TYPE_CHECKING, Any

from descent.callbacks.figures import DEFAULT, find_like
from descent.errors import ConfigError, require
from descent.run.atomic import write_text
from descent.run.folder import RunFolder
from descent.run.saved import find_runs
from descent.run.trust import read_yaml
from descent.sweep.pictures import draw
from descent.sweep.plan import Point, read_json

if TYPE_CHECKING:
    import polars as pl  # only after the runs: a process forked after this import may hang

REPEATS = ("seed", "data.seed", "fold", "data.fold")  # keys that distinguish repetitions, not choices
LOWER = ("loss", "mae", "mse", "rmse", "mape", "calibration_error")  # metrics for which lower is better
FEW = 5  # with fewer seeds in common, the spread is too uncertain to call a difference noise
# Student's t that 2.5 % lie above, by degrees of freedom from 4
T = (2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101)
FILES = {"ranking.csv", "ranking.md", "curves.png", "line.png", "map.png"}
UNLIKE = ("name", "folder", "resume", "jobs")  # keys that do not affect what a run computes
SHOWN, ENDLESS = 20, 10_000  # rows on the terminal; characters across in a file


@dataclass(frozen=True)
class Measure:
    """The figure of their best epoch by which runs are ranked."""

    metric: str
    lower: bool  # is better
    note: str = ""  # what it is, in words
    without: str = ""  # a figure that is not comparable


@dataclass
class Row:
    """A choice, and the results of its runs that have ended, by seed and fold."""

    values: dict[str, str]
    points: dict[tuple[str, ...], Point] = field(default_factory=dict)
    figures: dict[tuple[str, ...], dict[str, float]] = field(default_factory=dict)
    near: bool | None = False  # whether it is within the noise of the best; None if there are too few seeds

    @property
    def name(self) -> str:
        """Its values, such as `loss=mae, optimizer=sgd`."""
        return ", ".join(f"{key}={value}" for key, value in self.values.items()) or "run"

    def of(self, metric: str) -> list[float]:
        """Return a figure of each run that has it."""
        return [figures[metric] for figures in self.figures.values() if metric in figures]

    def find_best(self, measure: Measure) -> Point:
        """Return the best one of its runs."""
        value = (min if measure.lower else max)(self.of(measure.metric))
        return next(
            self.points[r] for r, figures in self.figures.items() if figures.get(measure.metric) == value
        )


def choose_measure(monitor: str, mode: str, varying: Iterable[str], figures: Iterable[str]) -> Measure:
    """Return the monitored metric; if that is the loss and the loss is `varying`, another of `figures`.

    If the user's module logs no val/loss, it is what the run monitored instead.
    """
    figures = list(figures)
    if monitor == DEFAULT and monitor not in figures and any("val" in name for name in figures):
        monitor = find_like(figures)
    of_loss = monitor.endswith("/loss") and any(key.partition(".")[0] == "loss" for key in varying)
    others = [name for name in figures if name.startswith("val/") and name != "val/loss"]
    if not of_loss or not others:
        return Measure(monitor, mode == "min", f"{monitor} at each run's best epoch")
    note = f"{others[0]} at the best epoch by {monitor}, because losses do not compare"
    return Measure(others[0], is_less_better(others[0]), note, "test/loss")


def is_less_better(metric: str) -> bool:
    """Return whether lower is better for a metric, by its name."""
    return metric.partition("/")[2] in LOWER


def best_figures(folder: RunFolder) -> dict[str, float]:
    """Return the figures of a run's best epoch, or of its last if none was kept, its test and its seconds."""
    result = read_json(folder.result)
    figures = (result.get("best") or result.get("final") or {}) | result.get("test", {})
    figures |= {"seconds": result.get("seconds")}
    return {k: float(v) for k, v in figures.items() if isinstance(v, int | float) and math.isfinite(v)}


def collect(points: Iterable[Point]) -> list[Row]:
    """Return a row for each choice with finished runs."""
    rows: dict[tuple[tuple[str, str], ...], Row] = {}
    for point in points:
        if point.state() == "done":
            choice = {key: value for key, value in point.values.items() if key not in REPEATS}
            repeat = tuple(value for key, value in point.values.items() if key in REPEATS)
            row = rows.setdefault(tuple(choice.items()), Row(choice))
            row.points[repeat], row.figures[repeat] = point, best_figures(point.folder)
    return list(rows.values())


def rank(rows: Sequence[Row], measure: Measure) -> list[Row]:
    """Return the rows that have the figure, best first, each compared with the best.

    Runs with the same seed share their splits and initial weights, so differences are taken seed by seed.
    """
    metric = measure.metric
    ranked = [row for row in rows if row.of(metric)]
    ranked.sort(key=lambda row: mean(row.of(metric)), reverse=not measure.lower)
    for row in ranked[1:]:
        both = [(figures, ranked[0].figures.get(repeat, {})) for repeat, figures in row.figures.items()]
        row.near = is_near([(f[metric], best[metric]) for f, best in both if metric in f and metric in best])
    return ranked


def is_near(pairs: Sequence[tuple[float, float]]) -> bool | None:
    """Return whether two choices differ by no more than noise; None if there are too few seeds.

    If each one's mean is outside the other's spread of one standard deviation, they differ. Otherwise, a
    95 % interval of the mean difference, by Student's t, decides. The pairs are their values, seed by seed.
    """
    n, gaps = len(pairs), [one - other for one, other in pairs]
    if n < 2:
        return None
    if abs(mean(gaps)) > max(stdev(values) for values in zip(*pairs, strict=True)):
        return False
    return abs(mean(gaps)) <= T[min(n - FEW, len(T) - 1)] * stdev(gaps) / math.sqrt(n) if n >= FEW else None


# ---- in words and files ------------------------------------------------------------------------------------


def show(rows: Sequence[Row], measure: Measure) -> str:
    """Return the best rows as a table that fits the terminal, and an explanation."""
    table, columns = tabulate(rows[:SHOWN], measure), shutil.get_terminal_size().columns
    while max(map(len, draw_table(table, ENDLESS).split("\n"))) > columns and table.columns[-1] != "runs":
        table = table.drop(table.columns[-1])
    more = f"\n… and {len(rows) - SHOWN} more" if len(rows) > SHOWN else ""
    return f"{draw_table(table, columns + 2)}{more}\n\n{explain(rows, measure)}"


def tabulate(rows: Sequence[Row], measure: Measure) -> "pl.DataFrame":
    """Return the ranking as texts, with a column for each key that varies."""
    import polars as pl

    tests = dict.fromkeys(name for row in rows for f in row.figures.values() for name in f if "test/" in name)
    marks = {True: "≈", False: "", None: "?" if any(len(row.points) > 1 for row in rows) else ""}
    table = {"": ["best", *(marks[row.near] for row in rows[1:])]}
    table |= {key: [row.values[key] for row in rows] for key in rows[0].values}
    table[measure.metric] = [write_spread(row.of(measure.metric)) for row in rows]
    table["runs"] = [str(len(row.points)) for row in rows]
    table |= {name: [write_spread(row.of(name)) for row in rows] for name in tests if name != measure.without}
    table["seconds"] = [f"{mean(row.of('seconds') or [0.0]):.1f}" for row in rows]
    return pl.DataFrame(table)


def write_spread(values: Sequence[float]) -> str:
    """Return `0.9731 ± 0.0052`: the mean and the standard deviation; `–` of nothing."""
    spread = f" ± {stdev(values):.2g}" if len(values) > 1 else ""
    return f"{mean(values):.4g}{spread}" if values else "–"


def draw_table(table: "pl.DataFrame", width: int, form: Any = "NOTHING") -> str:
    """Return a table of limited width; longer texts wrap."""
    import polars as pl

    with pl.Config(
        tbl_formatting=form, tbl_width_chars=width, tbl_rows=-1, tbl_cols=-1, fmt_str_lengths=ENDLESS,
        tbl_hide_column_data_types=True, tbl_hide_dataframe_shape=True,
    ):  # fmt: skip
        return "\n".join(line.removeprefix(" ").rstrip() for line in str(table).splitlines())


def explain(rows: Sequence[Row], measure: Measure) -> str:
    """Return what the ranking and its marks mean, in words."""
    text = f"Ranked by {measure.note}.\nMean ± standard deviation."
    if any(row.near for row in rows):
        text += "\n≈: within the noise of the best (95 % of the paired differences contain 0)."
    if any(row.near is None for row in rows):
        text += f"\n?: too few seeds to tell a difference from noise; {FEW} in common are enough."
    return text


def publish(rows: Sequence[Row], measure: Measure, folder: Path, note: str = "") -> None:
    """Write the ranking and its pictures into a folder."""
    import polars as pl

    columns: dict[str, Any] = {"rank": range(1, len(rows) + 1)}
    columns |= {key: [row.values[key] for row in rows] for key in rows[0].values}
    for name in dict.fromkeys(name for row in rows for figures in row.figures.values() for name in figures):
        values = [row.of(name) for row in rows]
        columns[f"{name} mean"] = [mean(column) if column else None for column in values]
        columns[f"{name} std"] = [stdev(column) if len(column) > 1 else None for column in values]
    columns |= {"runs": [len(row.points) for row in rows], "near": [row.near for row in rows]}
    write_text(folder / "ranking.csv", pl.DataFrame(columns).write_csv())
    table = draw_table(tabulate(rows, measure), ENDLESS, "ASCII_MARKDOWN")
    write_text(folder / "ranking.md", f"{table}\n\n{explain(rows, measure)}\n{note}")
    draw(rows, measure, folder)


# ---- any runs ----------------------------------------------------------------------------------------------


def compare(paths: Sequence[str], by: str | None, output: str | None) -> str:
    """Rank runs, write a table and pictures to a folder if one is named, and return the ranking in words.

    Args:
        paths: folders of runs, or with runs in them, or patterns.
        by: the metric to rank by; None for what the first run monitors.
        output: a new folder, or one of an earlier comparison; None to write nothing.
    """
    folders = find_folders(paths)
    points = [Point(chosen, (), folder) for chosen, folder in zip(tell_apart(folders), folders, strict=True)]
    rows = collect(points)
    require(bool(rows), "runs", " ".join(paths), "finished runs")
    config, figures = read_yaml(folders[0].config), next(iter(rows[0].figures.values()))
    measure = choose_measure(str(config["monitor"]), str(config["mode"]), points[0].values, figures)
    if by is not None:
        measure = Measure(by, is_less_better(by), f"{by} at each run's best epoch")
    if not (ranked := rank(rows, measure)):
        raise ConfigError("by", measure.metric, expected=f"one of {', '.join(figures)}", choices=figures)
    text = show(ranked, measure)
    if unfinished := [str(point.folder) for point in points if point.state() != "done"]:
        text += f"\nUnfinished: {', '.join(unfinished)}"
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
            expected = "the folder of a run, or one that contains runs"
            raise ConfigError("runs", path, expected=expected, choices=siblings)
        found |= {run.path: run for run in sorted(runs, key=lambda run: run.path)}
    require(bool(found), "runs", [], "folders of runs: python src/compare.py logs/a logs/b")
    return list(found.values())


def tell_apart(folders: Sequence[RunFolder]) -> list[dict[str, str]]:
    """Return each run's typed values that differ between runs, by key; `–` if a run has none."""
    lines = [read_yaml(folder.overrides) if folder.overrides.is_file() else [] for folder in folders]
    typed = [dict(str(word).lstrip("+").partition("=")[::2] for word in line or ()) for line in lines]
    keys = [key for key in dict.fromkeys(key for run in typed for key in run) if key not in UNLIKE]
    apart = [key for key in keys if len({run.get(key) for run in typed}) > 1]
    return [{key: run.get(key, "–") for key in apart} for run in typed]
