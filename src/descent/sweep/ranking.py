"""Which choice is the best: means over seeds, and what their spread says."""

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import mean, stdev

from descent.sweep.plan import Point, best_figures, read_result

REPEATS = ("seed", "data.seed", "fold", "data.fold")  # what does not make another choice
LOWER = ("loss", "mae", "mse", "rmse", "mape", "calibration_error")  # metrics of which less is better
# Student's t that 2.5 % lie above, by degrees of freedom from 1
T = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145,
    2.131, 2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048,
)  # fmt: skip
BEYOND = 2.0


@dataclass
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
        points: of its runs that have ended, by seed and fold.
        figures: of each run, by the same.
        seconds: of training, of each run.
        near: whether the difference to the best is within the noise; None where that cannot be told.
    """

    values: dict[str, str]
    points: dict[tuple[str, ...], Point]
    figures: dict[tuple[str, ...], dict[str, float]]
    seconds: list[float]
    near: bool | None = None

    def of(self, metric: str) -> list[float]:
        """Return a figure of each run that has it."""
        return [figures[metric] for figures in self.figures.values() if metric in figures]

    def find_best(self, measure: "Measure") -> Point:
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
    metric = others[0]
    note = f"{metric} at each run's best epoch by {monitor}, for values of different losses do not compare"
    return Measure(metric, is_less_better(metric), note)


def is_less_better(metric: str) -> bool:
    """Return whether of a metric's values the lower one is better, by its name."""
    return metric.partition("/")[2] in LOWER


def collect(points: Sequence[Point]) -> list[Row]:
    """Return a row for each choice that has runs that are done."""
    rows: dict[tuple[tuple[str, str], ...], Row] = {}
    for point in points:
        if point.state() != "done":
            continue
        choice = {key: value for key, value in point.values.items() if key not in REPEATS}
        repeat = tuple(value for key, value in point.values.items() if key in REPEATS)
        row = rows.setdefault(tuple(choice.items()), Row(choice, {}, {}, []))
        result = read_result(point.folder)
        row.points[repeat], row.figures[repeat] = point, best_figures(result)
        row.seconds.append(float(result.get("seconds", 0.0)))
    return list(rows.values())


def rank(rows: Sequence[Row], measure: Measure) -> list[Row]:
    """Return the rows that have the figure, the best first, each compared with that one.

    Runs of one seed share their splits and their initial weights, so the differences are taken seed by seed:
    a row is near the best where a 95 % interval of their mean, by Student's t, holds 0.
    """
    ranked = [row for row in rows if row.of(measure.metric)]
    ranked.sort(key=lambda row: mean(row.of(measure.metric)), reverse=not measure.lower)
    for row in ranked[1:]:
        best = ranked[0].figures
        pairs = [(figures, best[repeat]) for repeat, figures in row.figures.items() if repeat in best]
        row.near = holds_zero([one[measure.metric] - other[measure.metric] for one, other in pairs])
    return ranked


def holds_zero(differences: Sequence[float]) -> bool | None:
    """Return whether a 95 % interval of the mean difference holds 0; None of fewer than two."""
    n = len(differences)
    if n < 2:
        return None
    t = T[n - 2] if n - 2 < len(T) else BEYOND
    return abs(mean(differences)) <= t * stdev(differences) / sqrt(n)


def tabulate(rows: Sequence[Row], measure: Measure) -> list[list[str]]:
    """Return the ranking as texts, its head first."""
    tests = [name for name in rows[0].figures[next(iter(rows[0].figures))] if name.startswith("test/")]
    table = [["", *rows[0].values, measure.metric, *tests, "runs", "seconds"]]
    unsure = "?" if has_repeats(rows) else ""
    for number, row in enumerate(rows, 1):
        mark = {True: "≈", False: "", None: unsure}[row.near] if number > 1 else "best"
        figures = [mean_and_spread(row.of(name)) for name in (measure.metric, *tests)]
        table.append(
            [mark, *row.values.values(), *figures, str(len(row.figures)), f"{mean(row.seconds):.1f}"]
        )
    return table


def mean_and_spread(values: Sequence[float]) -> str:
    """Return `0.9731 ± 0.0052`: the mean and the standard deviation; `–` of nothing."""
    if not values:
        return "–"
    return f"{mean(values):.4g}" + (f" ± {stdev(values):.2g}" if len(values) > 1 else "")


def has_repeats(rows: Sequence[Row]) -> bool:
    """Return whether there is a choice with several runs."""
    return any(len(row.figures) > 1 for row in rows)


def explain_marks(rows: Sequence[Row], measure: Measure) -> str:
    """Return what the table says, in words."""
    lines = [f"Ranked by {measure.note}: mean ± standard deviation."]
    if any(row.near for row in rows):
        lines.append("≈: within the noise of the best (95 % interval of the paired differences holds 0).")
    if not has_repeats(rows):
        lines.append("One run of each, so nothing is said of noise: seed=0,1,2 would tell.")
    elif any(row.near is None for row in rows[1:]):
        lines.append("?: fewer than two seeds in common with the best, so nothing is said of noise.")
    return "\n".join(lines)


def to_text(table: Sequence[Sequence[str]]) -> str:
    """Return a table for a terminal."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in table)


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
