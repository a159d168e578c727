"""Draws a sweep: the curves of its best choices, and a line or a map if numbers were varied."""

import csv
import io
import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from descent.run.folder import RunFolder
from descent.run.trust import read_text
from descent.sweep.ranking import Measure, Row

WIDE = 30  # ratio of the largest to the least number above which an axis is logarithmic
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")  # Okabe and Ito (2008)


def read_curve(folder: RunFolder, metric: str) -> dict[float, float]:
    """Return a metric that a run logged, by epoch, without NaN."""
    curve = {}
    with suppress(OSError, ValueError, csv.Error):
        for row in csv.DictReader(io.StringIO(read_text(folder.metrics))):
            epoch, value = float(row.get("epoch") or "nan"), float(row.get(metric) or "nan")
            if math.isfinite(epoch) and math.isfinite(value):  # not in an epoch without validation
                curve[epoch] = value
    return curve


def draw(rows: Sequence[Row], measure: Measure, folder: Path) -> None:
    """Draw the curves of ranked choices, and their figures if one or two numbers were varied."""
    from matplotlib.figure import Figure  # not pyplot, which looks for a display

    pictures: list[tuple[str, Callable[..., None], float, float]] = [("curves", draw_curves, 8, 4.5)]
    with suppress(ValueError):  # the values are not numbers
        axes = [set(axis) for axis in zip(*(map(float, row.values.values()) for row in rows), strict=True)]
        if len(axes) == 1:
            pictures.append(("line", draw_line, 7, 4))
        elif len(axes) == 2 and min(map(len, axes)) > 1:
            pictures.append(("map", draw_map, 1.8 + 0.8 * len(axes[0]), 1.5 + 0.6 * len(axes[1])))
    for name, paint, width, height in pictures:
        figure = Figure(figsize=(width, height), layout="constrained")
        paint(figure.add_subplot(), rows, measure)
        figure.savefig(folder / f"{name}.png", dpi=120)


def scale(values: Sequence[float]) -> str:
    """Return "log" where values span a large ratio."""
    return "log" if values and min(values) > 0 and max(values) > WIDE * min(values) else "linear"


def plain(text: str) -> str:
    """Return a text in which matplotlib finds no formulas."""
    return text.replace("$", r"\$")


def plot(axes: Any, found: Mapping[float, list[float]], **style: Any) -> list[float]:
    """Plot means, with a band of one standard deviation, and return them."""
    xs = sorted(found)
    means = [mean(found[x]) for x in xs]
    spread = [stdev(found[x]) if len(found[x]) > 1 else 0.0 for x in xs]
    low, high = ([m + sign * s for m, s in zip(means, spread, strict=True)] for sign in (-1, 1))
    axes.plot(xs, means, marker=".", **style)
    axes.fill_between(xs, low, high, color=style["color"], alpha=0.15, linewidth=0)
    return means


def draw_curves(axes: Any, rows: Sequence[Row], measure: Measure) -> None:
    """Draw the curves of the best choices."""
    drawn: list[float] = []
    for number, (row, colour) in enumerate(zip(rows, COLOURS, strict=False), 1):
        found = defaultdict(list)
        for point in row.points.values():
            for epoch, value in read_curve(point.folder, measure.metric).items():
                found[epoch].append(value)
        best, width = (" (best)", 2.4) if number == 1 else ("", 1.4)
        label = plain(f"{number}. {row.name}"[:60] + best)
        drawn += plot(axes, found, label=label, color=colour, linewidth=width, zorder=9 - number)
    axes.locator_params("x", integer=True)
    axes.set(xlabel="epoch", ylabel=plain(measure.metric), yscale=scale(drawn))
    axes.legend(fontsize="small")


def draw_line(axes: Any, rows: Sequence[Row], measure: Measure) -> None:
    """Plot the figure against the one number that was varied, with the best marked."""
    values = {float(*row.values.values()): row.of(measure.metric) for row in rows}  # the best first
    means, best = plot(axes, values, color=COLOURS[0]), next(iter(values))
    axes.plot([best], [mean(values[best])], "*", markersize=16, color=COLOURS[1], label=f"best: {best:g}")
    axes.set(xlabel=plain(next(iter(rows[0].values))), ylabel=plain(measure.metric))
    axes.set(xscale=scale(list(values)), yscale=scale(means))
    axes.legend()


def draw_map(axes: Any, rows: Sequence[Row], measure: Measure) -> None:
    """Map the figure over the two numbers that were varied, with the best marked.

    The colours end at three times the distance from the best to the median, so that a diverged run does not
    make all others look the same.
    """
    figures = [mean(row.of(measure.metric)) for row in rows]  # the best first
    nearer, colours = (min, "viridis_r") if measure.lower else (max, "viridis")
    last = nearer(figures[-1], figures[0] + 3 * (figures[len(figures) // 2] - figures[0]))
    places = [tuple(map(float, row.values.values())) for row in rows]
    xs, ys = (sorted(set(axis)) for axis in zip(*places, strict=True))
    grid = [[math.nan] * len(xs) for _ in ys]
    for (x, y), value in zip(places, figures, strict=True):
        column, row = xs.index(x), ys.index(y)
        grid[row][column] = value
        text, box = f"{value:.3g}", {"facecolor": "white", "alpha": 0.7, "edgecolor": "none"}
        if (x, y) == places[0]:
            text, box = f"best\n{text}", {"facecolor": "white", "edgecolor": "red"}
        axes.text(column, row, text, ha="center", va="center", fontsize="small", bbox=box)
    low, high = sorted((figures[0], last))
    image = axes.imshow(grid, colours, origin="lower", aspect="auto", vmin=low, vmax=high)
    axes.set_xticks(range(len(xs)), [f"{x:g}" for x in xs])
    axes.set_yticks(range(len(ys)), [f"{y:g}" for y in ys])
    xlabel, ylabel = map(plain, rows[0].values)
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.figure.colorbar(image, label=plain(measure.metric))
