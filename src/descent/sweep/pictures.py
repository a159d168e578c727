"""Draws a sweep: the curves of its best choices, and a line or a map if numbers were varied."""

import csv
import io
import math
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from statistics import mean, stdev
from typing import TYPE_CHECKING, Any

from descent.run.folder import RunFolder
from descent.run.trust import read_text

if TYPE_CHECKING:
    from descent.sweep.ranking import Measure, Row

WIDE = 30  # ratio of the largest to the least number above which an axis is logarithmic
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")  # Okabe and Ito (2008)


def read_curve(folder: RunFolder, metric: str) -> tuple[list[float], list[float]]:
    """Return the epochs in which a run logged a metric, and its values, without NaN."""
    epochs, values = [], []
    with suppress(OSError, ValueError, csv.Error):
        for row in csv.DictReader(io.StringIO(read_text(folder.metrics))):
            epoch, value = float(row.get("epoch") or "nan"), float(row.get(metric) or "nan")
            if math.isfinite(epoch) and math.isfinite(value):  # not in an epoch without validation
                epochs.append(epoch)
                values.append(value)
    return epochs, values


def draw(rows: "Sequence[Row]", measure: "Measure", folder: Path) -> None:
    """Draw the curves of ranked choices, and their figures if one or two numbers were varied."""
    draw_curves(rows, measure, folder / "curves.png")
    with suppress(ValueError):  # the values are not numbers
        places = [tuple(map(float, row.values.values())) for row in rows]
        if len(places[0]) == 1:
            draw_line(rows, measure, folder / "line.png")
        elif len(places[0]) == 2:
            draw_map(rows, measure, folder / "map.png")


def start_figure(width: float, height: float, xlabel: str, ylabel: str) -> Any:
    """Return the axes of a new figure, in whose labels matplotlib finds no formulas."""
    from matplotlib.figure import Figure  # not pyplot, which looks for a display

    axes = Figure(figsize=(width, height), layout="constrained").add_subplot()
    axes.set(xlabel=plain(xlabel), ylabel=plain(ylabel))
    return axes


def plain(text: str) -> str:
    """Return a text in which matplotlib finds no formulas."""
    return text.replace("$", r"\$")


def scale(values: Sequence[float]) -> str:
    """Return "log" where values span a large ratio."""
    return "log" if values and min(values) > 0 and max(values) > WIDE * min(values) else "linear"


def spread(values: Sequence[float]) -> float:
    """Return the standard deviation; 0 of a single value."""
    return stdev(values) if len(values) > 1 else 0.0


def draw_curves(rows: "Sequence[Row]", measure: "Measure", file: Path) -> None:
    """Draw the best choices' curves: the mean over their runs, with a band of one standard deviation."""
    from matplotlib.ticker import MaxNLocator

    axes, drawn = start_figure(8, 4.5, "epoch", measure.metric), list[float]()
    for number, (row, colour) in enumerate(zip(rows, COLOURS, strict=False), 1):
        found: dict[float, list[float]] = {}
        for point in row.points.values():
            for epoch, value in zip(*read_curve(point.folder, measure.metric), strict=True):
                found.setdefault(epoch, []).append(value)
        epochs = sorted(found)
        means = [mean(found[epoch]) for epoch in epochs]
        low, high = ([mean(found[e]) + sign * spread(found[e]) for e in epochs] for sign in (-1, 1))
        label = plain(f"{number}. {row.name}"[:60])
        axes.plot(epochs, means, "o-" if len(epochs) == 1 else "-", label=label, color=colour)
        axes.fill_between(epochs, low, high, color=colour, alpha=0.15, linewidth=0)
        drawn += means
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_yscale(scale(drawn))
    axes.legend(fontsize="small")
    axes.figure.savefig(file, dpi=120)


def draw_line(rows: "Sequence[Row]", measure: "Measure", file: Path) -> None:
    """Plot the figure against the one number that was varied, with the best marked."""
    values = {float(*row.values.values()): row.of(measure.metric) for row in rows}  # the best first
    best, xs = next(iter(values)), sorted(values)
    means, errors = [mean(values[x]) for x in xs], [spread(values[x]) for x in xs]
    axes = start_figure(7, 4, next(iter(rows[0].values)), measure.metric)
    axes.errorbar(xs, means, errors, fmt="o-", capsize=3, color=COLOURS[0])
    axes.plot([best], [mean(values[best])], "*", markersize=16, color=COLOURS[1], label=f"best: {best:g}")
    axes.set(xscale=scale(xs), yscale=scale(means))
    axes.legend()
    axes.figure.savefig(file, dpi=120)


def draw_map(rows: "Sequence[Row]", measure: "Measure", file: Path) -> None:
    """Map the figure over the two numbers that were varied, with the best marked.

    The colour range is three times the distance from the best to the median, so that a diverged run does
    not make all others look the same.
    """
    xs, ys = zip(*(map(float, row.values.values()) for row in rows), strict=True)  # the best first
    means = [mean(row.of(measure.metric)) for row in rows]
    best, median = means[0], means[len(means) // 2]
    low, high = sorted((best, best + 3 * (median - best)))
    axes = start_figure(7, 5, *rows[0].values)
    colours = {"cmap": "viridis_r" if measure.lower else "viridis", "vmin": low, "vmax": high}
    image = axes.scatter(xs, ys, 250, means, **colours)
    axes.plot(xs[:1], ys[:1], "*", markersize=14, color=COLOURS[1], label=f"best: {best:.4g}")
    axes.set(xscale=scale(xs), yscale=scale(ys))
    axes.legend()
    axes.figure.colorbar(image, label=plain(measure.metric), extend="max" if measure.lower else "min")
    axes.figure.savefig(file, dpi=120)
