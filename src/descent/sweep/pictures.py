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
        elif len(places[0]) == 2 and all(len(set(axis)) > 1 for axis in zip(*places, strict=True)):
            draw_map(rows, measure, folder / "map.png")


def start_figure(width: float, height: float) -> tuple[Any, Any]:
    """Return a figure and its axes."""
    from matplotlib.figure import Figure  # not pyplot, which looks for a display

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()


def scale(values: Sequence[float]) -> str:
    """Return "log" where values span a large ratio."""
    return "log" if values and min(values) > 0 and max(values) > WIDE * min(values) else "linear"


def plain(text: str) -> str:
    """Return a text in which matplotlib finds no formulas."""
    return text.replace("$", r"\$")


def draw_curves(rows: "Sequence[Row]", measure: "Measure", file: Path) -> None:
    """Draw the best choices' curves: the mean over their runs, with a band of one standard deviation."""
    from matplotlib.ticker import MaxNLocator

    figure, axes = start_figure(8, 4.5)
    drawn: list[float] = []
    for number, (row, colour) in enumerate(zip(rows, COLOURS, strict=False), 1):
        found: dict[float, list[float]] = {}
        for point in row.points.values():
            for epoch, value in zip(*read_curve(point.folder, measure.metric), strict=True):
                found.setdefault(epoch, []).append(value)
        epochs = sorted(found)
        means = [mean(found[epoch]) for epoch in epochs]
        spread = [stdev(found[epoch]) if len(found[epoch]) > 1 else 0.0 for epoch in epochs]
        low, high = ([m + sign * s for m, s in zip(means, spread, strict=True)] for sign in (-1, 1))
        label = plain(f"{number}. {row.name}"[:60] + (" (best)" if number == 1 else ""))
        width, line = 2.4 if number == 1 else 1.4, "o-" if len(epochs) == 1 else "-"
        axes.plot(epochs, means, line, label=label, color=colour, linewidth=width, zorder=9 - number)
        axes.fill_between(epochs, low, high, color=colour, alpha=0.15, linewidth=0)
        drawn += means
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(xlabel="epoch", ylabel=plain(measure.metric), yscale=scale(drawn))
    axes.legend(fontsize="small")
    figure.savefig(file, dpi=120)


def draw_line(rows: "Sequence[Row]", measure: "Measure", file: Path) -> None:
    """Plot the figure against the one number that was varied, with the best marked."""
    values = {float(*row.values.values()): row.of(measure.metric) for row in rows}  # the best first
    best, xs = next(iter(values)), sorted(values)
    means = [mean(values[x]) for x in xs]
    figure, axes = start_figure(7, 4)
    errors = [stdev(values[x]) if len(values[x]) > 1 else 0 for x in xs]
    axes.errorbar(xs, means, errors, fmt="o-", capsize=3, color=COLOURS[0])
    axes.plot([best], [mean(values[best])], "*", markersize=16, color=COLOURS[1], label=f"best: {best:g}")
    axes.set(xlabel=plain(next(iter(rows[0].values))), ylabel=plain(measure.metric))
    axes.set(xscale=scale(xs), yscale=scale(means))
    axes.legend()
    figure.savefig(file, dpi=120)


def draw_map(rows: "Sequence[Row]", measure: "Measure", file: Path) -> None:
    """Map the figure over the two numbers that were varied, with the best marked.

    The colour range is three times the distance from the best to the median, so that a diverged run does
    not make all others look the same.
    """
    places = [(*map(float, row.values.values()), mean(row.of(measure.metric))) for row in rows]
    xs, ys = (sorted({place[axis] for place in places}) for axis in (0, 1))
    figures = [place[2] for place in places]  # the best first
    worst = figures[0] + 3 * (figures[len(figures) // 2] - figures[0])
    low, high = max(min(figures), min(figures[0], worst)), min(max(figures), max(figures[0], worst))
    grid = [[math.nan] * len(xs) for _ in ys]
    figure, axes = start_figure(1.8 + 0.8 * len(xs), 1.5 + 0.6 * len(ys))
    for x, y, value in places:
        grid[ys.index(y)][xs.index(x)] = value
        bright = (value > (low + high) / 2) != measure.lower
        colour, place = "black" if bright else "white", (xs.index(x), ys.index(y))
        axes.text(*place, f"{value:.3g}", ha="center", va="center", color=colour, fontsize="small")
    image = axes.imshow(
        grid, origin="lower", cmap="viridis_r" if measure.lower else "viridis", aspect="auto",
        vmin=low, vmax=high,
    )  # fmt: skip
    place = (xs.index(places[0][0]), ys.index(places[0][1]))
    axes.plot(*place, "s", markersize=34, markerfacecolor="none", markeredgecolor="red", markeredgewidth=2)
    axes.set_xticks(range(len(xs)), [f"{x:g}" for x in xs])
    axes.set_yticks(range(len(ys)), [f"{y:g}" for y in ys])
    xlabel, ylabel = map(plain, rows[0].values)
    axes.set(xlabel=xlabel, ylabel=ylabel, title=f"best: {figures[0]:.4g}")
    beyond = "max" if high < max(figures) else "min" if low > min(figures) else "neither"
    figure.colorbar(image, label=plain(measure.metric), extend=beyond)
    figure.savefig(file, dpi=120)
