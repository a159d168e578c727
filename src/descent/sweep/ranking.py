"""Ranks choices, of a sweep or of any runs: means over seeds, and which differences their spread supports."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import mean, stdev
from typing import Any

from descent.callbacks.figures import DEFAULT, find_like
from descent.errors import ConfigError
from descent.run.folder import RunFolder
from descent.sweep.plan import Point, read_json

REPEATS = ("seed", "data.seed", "fold", "data.fold")  # keys that distinguish repetitions, not choices
LOWER = ("loss", "mae", "mse", "rmse", "mape", "calibration_error")  # metrics for which lower is better
FEW = 5  # with fewer seeds in common, the spread is too uncertain to call a difference noise
# Student's t that 2.5 % lie above, by degrees of freedom from 4
T = (2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101)


@dataclass(frozen=True)
class Measure:
    """The figure of their best epoch by which runs are ranked."""

    metric: str
    lower: bool  # is better
    monitor: str = ""  # the loss, if it chose the best epoch but does not compare


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
        return next(self.points[r] for r, f in self.figures.items() if f.get(measure.metric) == value)


def best_figures(folder: RunFolder) -> dict[str, float]:
    """Return the figures of a run's best epoch, or of its last if none was kept, its test and its seconds."""
    result = read_json(folder.result)
    try:
        best = result.get("best") or result.get("final") or {}
        figures = {**best, **result.get("test", {}), "seconds": result.get("seconds")}
        return {k: float(v) for k, v in figures.items() if v is not None and math.isfinite(v)}
    except (TypeError, OverflowError) as error:
        raise ConfigError(str(folder.result), expected="a run's figures: numbers by name") from error


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


def list_figures(rows: Sequence[Row]) -> list[str]:
    """Return the names of all figures that any run has."""
    return list(dict.fromkeys(name for row in rows for figures in row.figures.values() for name in figures))


def choose_measure(config: Mapping[str, Any], rows: Sequence[Row]) -> Measure:
    """Return what a run monitors; if that is the loss and the loss varies, the first other of validation.

    If the user's module logs no val/loss, it is what the run monitored instead.
    """
    monitor, figures = str(config["monitor"]), list_figures(rows)
    if monitor == DEFAULT and monitor not in figures and any("val" in name for name in figures):
        monitor = find_like(figures)
    others = [name for name in figures if name.startswith("val/") and name != "val/loss"]
    varies = any(key.partition(".")[0] == "loss" for row in rows for key in row.values)
    if monitor.endswith("/loss") and varies and others:
        return Measure(others[0], is_less_better(others[0]), monitor)
    return Measure(monitor, config["mode"] == "min")


def is_less_better(metric: str) -> bool:
    """Return whether lower is better for a metric, by its name."""
    return metric.partition("/")[2] in LOWER


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
