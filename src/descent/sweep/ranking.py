"""Which choice is the best: means over seeds, and what their spread allows to say."""

import csv
import io
import math
import shutil
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from statistics import mean, stdev

from descent.run.atomic import write_text
from descent.run.folder import RunFolder
from descent.sweep.pictures import draw
from descent.sweep.plan import Point, read_json, within

REPEATS = ("seed", "data.seed", "fold", "data.fold")  # what does not make another choice
LOWER = ("loss", "mae", "mse", "rmse", "mape", "calibration_error")  # metrics of which less is better
FEW = 5  # seeds in common, below which their spread is too uncertain to call a difference noise
# Student's t that 2.5 % lie above, by degrees of freedom from 4
T = (2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101)
BEYOND = 2.0
SHOWN, NARROW = 20, 12  # rows on the terminal; columns that a value keeps there


@dataclass(frozen=True)
class Measure:
    """What runs are ranked by: a figure of their best epoch, and whether less of it is better."""

    metric: str
    lower: bool
    note: str


@dataclass
class Row:
    """A choice, and what came of its runs.

    Attributes:
        values: of the choice, by key.
        points: its runs that have ended, by seed and fold.
        figures: of each run, by the same.
        seconds: of training, of each run.
        near: whether the difference from the best is within the noise; None where there are too few seeds.
    """

    values: dict[str, str]
    points: dict[tuple[str, ...], Point]
    figures: dict[tuple[str, ...], dict[str, float]]
    seconds: list[float]
    near: bool | None = False

    @property
    def name(self) -> str:
        """Its values, such as `loss=mae, optimizer=sgd`."""
        return ", ".join(f"{key}={value}" for key, value in self.values.items()) or "run"

    def of(self, metric: str) -> list[float]:
        """Return a figure of each run that has it."""
        return [figures[metric] for figures in self.figures.values() if metric in figures]

    def find_best(self, measure: Measure) -> Point:
        """Return the best one of its runs."""
        having = {repeat: f[measure.metric] for repeat, f in self.figures.items() if measure.metric in f}
        chosen = min if measure.lower else max
        return self.points[chosen(having, key=having.__getitem__)]


def choose_measure(monitor: str, mode: str, varying: Iterable[str], figures: Iterable[str]) -> Measure:
    """Return the monitored metric; where runs differ in their loss, and that is monitored, another one.

    Args:
        monitor, mode: of the runs.
        varying: the keys in which they differ.
        figures: that one run has, by their names.
    """
    of_loss = monitor.endswith("/loss") and any(key.partition(".")[0] == "loss" for key in varying)
    others = [name for name in figures if name.startswith("val/") and name != "val/loss"]
    if not of_loss or not others:
        return Measure(monitor, mode == "min", f"{monitor} at each run's best epoch")
    note = f"{others[0]} at each run's best epoch by {monitor}, because values of different losses do not compare"
    return Measure(others[0], is_less_better(others[0]), note)


def is_less_better(metric: str) -> bool:
    """Return whether of a metric's values the lower one is better, by its name."""
    return metric.partition("/")[2] in LOWER


def best_figures(folder: RunFolder) -> dict[str, float]:
    """Return the figures of a run's best epoch, or of the last where no best was kept, and of its test."""
    result = read_json(folder.result)
    rows = [result.get("best") or result.get("final"), result.get("test"), {"": result.get("seconds")}]
    figures = {name: value for row in rows if isinstance(row, dict) for name, value in row.items()}
    return {k: float(v) for k, v in figures.items() if isinstance(v, int | float) and math.isfinite(v)}


def collect(points: Iterable[Point]) -> list[Row]:
    """Return a row for each choice that has runs that are done."""
    rows: dict[tuple[tuple[str, str], ...], Row] = {}
    for point in points:
        if point.state() == "done":
            choice = {key: value for key, value in point.values.items() if key not in REPEATS}
            repeat = tuple(value for key, value in point.values.items() if key in REPEATS)
            row = rows.setdefault(tuple(choice.items()), Row(choice, {}, {}, []))
            figures = best_figures(point.folder)
            row.seconds.append(figures.pop("", 0.0))
            row.points[repeat], row.figures[repeat] = point, figures
    return list(rows.values())


def rank(rows: Sequence[Row], measure: Measure) -> list[Row]:
    """Return the rows that have the figure, the best first, each compared with that one.

    Runs of one seed share their splits and their initial weights, so the differences are taken seed by seed.
    """
    ranked = [row for row in rows if row.of(measure.metric)]
    ranked.sort(key=lambda row: mean(row.of(measure.metric)), reverse=not measure.lower)
    for row in ranked[1:]:
        best = ranked[0].figures
        pairs = [(f.get(measure.metric), best[r].get(measure.metric)) for r, f in row.figures.items() if r in best]
        row.near = is_near([(one, other) for one, other in pairs if one is not None and other is not None])
    return ranked


def is_near(pairs: Sequence[tuple[float, float]]) -> bool | None:
    """Return whether two choices differ by no more than noise.

    They do not where each one's mean is outside the other's spread, one standard deviation. Otherwise a 95 %
    interval of the mean difference, by Student's t, decides; None where there are too few seeds for one.

    Args:
        pairs: values of both, seed by seed.
    """
    n, gaps = len(pairs), [one - other for one, other in pairs]
    if n < 2:
        return None
    if abs(mean(gaps)) > max(stdev(values) for values in zip(*pairs, strict=True)):
        return False
    if n < FEW:
        return None
    t = T[n - FEW] if n - FEW < len(T) else BEYOND
    return abs(mean(gaps)) <= t * stdev(gaps) / sqrt(n)


def tabulate(rows: Sequence[Row], measure: Measure) -> list[list[str]]:
    """Return the ranking as texts, its head first."""
    tests = list(dict.fromkeys(n for row in rows for f in row.figures.values() for n in f if n.startswith("test/")))
    table = [["", *rows[0].values, measure.metric, *tests, "runs", "seconds"]]
    signs = {True: "≈", False: "", None: "?" if has_repeats(rows) else ""}
    for number, row in enumerate(rows, 1):
        mark = "best" if number == 1 else signs[row.near]
        figures = [write_spread(row.of(name)) for name in (measure.metric, *tests)]
        seconds = f"{mean(row.seconds):.1f}"
        table.append([mark, *row.values.values(), *figures, str(len(row.figures)), seconds])
    return table


def write_spread(values: Sequence[float]) -> str:
    """Return `0.9731 ± 0.0052`: the mean and the standard deviation; `–` of nothing."""
    if not values:
        return "–"
    return f"{mean(values):.4g}" + (f" ± {stdev(values):.2g}" if len(values) > 1 else "")


def explain(rows: Sequence[Row], measure: Measure) -> str:
    """Return what the ranking and its marks mean, in words."""
    lines = [f"Ranked by {measure.note}: mean ± standard deviation."]
    if any(row.near for row in rows):
        lines.append("≈: within the noise of the best (95 % interval of the paired differences contains 0).")
    if any(row.near is None for row in rows):
        mark = "?: too" if has_repeats(rows) else "Too"
        lines.append(f"{mark} few seeds to tell a difference from noise; {FEW} in common would do.")
    return "\n".join(lines)


def has_repeats(rows: Sequence[Row]) -> bool:
    """Return whether there is a choice with several runs."""
    return any(len(row.figures) > 1 for row in rows)


# ---- tables ------------------------------------------------------------------------------------------------


def to_text(table: Sequence[Sequence[str]], choices: int) -> str:
    """Return a table that fits the terminal: long values are cut, then the last columns left out.

    Args:
        table: its head first.
        choices: how many columns after the first one hold values of a choice.
    """
    lines, columns = [list(line) for line in table[: SHOWN + 1]], shutil.get_terminal_size().columns
    while True:
        widths = [max(map(measure_text, column)) for column in zip(*lines, strict=True)]
        excess = sum(widths) + 2 * (len(widths) - 1) - columns
        widest = max(range(1, 1 + choices), key=widths.__getitem__, default=0)
        if excess > 0 and widest and widths[widest] > NARROW:
            for line in lines:
                line[widest] = cut(line[widest], max(NARROW, widths[widest] - excess))
        elif excess > 0 and len(widths) > choices + 2:
            lines = [line[:-1] for line in lines]
        else:
            break
    padded = ("  ".join(c + " " * (w - measure_text(c)) for c, w in zip(l, widths, strict=True)) for l in lines)
    more = [f"… {len(table) - len(lines)} more"] if len(table) > len(lines) else []
    return "\n".join([*(line.rstrip() for line in padded), *more])


def measure_text(text: str) -> int:
    """Return how many columns a text takes: Korean characters take two."""
    return sum(2 if unicodedata.east_asian_width(sign) in "WF" else 1 for sign in text)


def cut(text: str, width: int) -> str:
    """Return a text of at most so many columns."""
    if measure_text(text) <= width:
        return text
    while measure_text(text) >= width:
        text = text[:-1]
    return text + "…"


def to_markdown(table: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    lines = [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in table]
    return "\n".join([lines[0], "|---" * len(table[0]) + "|", *lines[1:]]) + "\n"


def to_csv(rows: Sequence[Row]) -> str:
    """Return the ranking with all figures, each a column of means and one of standard deviations."""
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    names = list(dict.fromkeys(name for row in rows for figures in row.figures.values() for name in figures))
    figures = [f"{name} {kind}" for name in names for kind in ("mean", "std")]
    writer.writerow(["rank", *rows[0].values, *figures, "runs", "seconds", "near"])
    for number, row in enumerate(rows, 1):
        columns = [row.of(name) for name in names]
        pairs = [(mean(c) if c else "", stdev(c) if len(c) > 1 else "") for c in columns]
        last = [len(row.figures), mean(row.seconds), "" if row.near is None else row.near]
        writer.writerow([number, *row.values.values(), *(cell for pair in pairs for cell in pair), *last])
    return text.getvalue()


def publish(rows: Sequence[Row], measure: Measure, folder: Path, note: str = "") -> None:
    """Write the ranking and its pictures into a folder."""
    table = tabulate(rows, measure)
    write_text(within(folder, "ranking.csv"), to_csv(rows))
    write_text(within(folder, "ranking.md"), f"{to_markdown(table)}\n{explain(rows, measure)}\n{note}")
    draw(rows, measure, folder)
