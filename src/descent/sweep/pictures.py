"""What a sweep looks like: the curves of its runs, and a line or a map where numbers were varied."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from descent.run.folder import RunFolder, read_text
from descent.sweep.ranking import Measure, Row

WIDE = 30  # from the least to the largest number, above which an axis is logarithmic
NAMED = 6  # choices that get a colour and a name; the others are grey


def read_metrics(folder: RunFolder) -> list[dict[str, str]]:
    """Return what a run has logged, a row for each epoch."""
    try:
        return list(csv.DictReader(io.StringIO(read_text(folder.metrics))))
    except (OSError, ValueError, csv.Error):
        return []


def read_curve(folder: RunFolder, metric: str) -> tuple[list[float], list[float]]:
    """Return the epochs in which a run logged a metric, and its values."""
    epochs, values = [], []
    for row in read_metrics(folder):
        try:
            epoch, value = float(row.get("epoch") or "nan"), float(row.get(metric) or "nan")
        except ValueError:
            continue
        if value == value:  # not in an epoch without validation
            epochs.append(epoch)
            values.append(value)
    return epochs, values


def draw(rows: Sequence[Row], measure: Measure, folder: Path) -> None:
    """Draw the curves of ranked choices, and what they come to where one or two numbers were varied."""
    draw_curves(rows, measure, folder / "curves.png")
    try:
        places = [tuple(map(float, row.values.values())) for row in rows]
    except ValueError:
        return
    if len(places[0]) == 1:
        draw_line(rows, measure, folder / "line.png")
    elif len(places[0]) == 2 and all(len(set(axis)) > 1 for axis in zip(*places, strict=True)):
        draw_map(rows, measure, folder / "map.png")


def start_figure(width: float, height: float) -> tuple[Any, Any]:
    """Return a figure and its axes."""
    from matplotlib.figure import Figure  # not pyplot, which looks for a display

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()


def draw_curves(rows: Sequence[Row], measure: Measure, file: Path | io.StringIO) -> None:
    """Draw each run's curve of the figure that they are ranked by, the best choices in colours.

    Args:
        rows: ranked.
        measure: what they are ranked by.
        file: a path that ends in .png, or a stream for SVG.
    """
    figure, axes = start_figure(8, 5)
    for number, row in reversed(list(enumerate(rows))):
        named = number < NAMED
        label = ", ".join(f"{key}={value}" for key, value in row.values.items()) or "run"
        for line, point in enumerate(row.points.values()):
            epochs, values = read_curve(point.folder, measure.metric)
            style = "o-" if len(epochs) == 1 else "-"
            axes.plot(
                epochs, values, style, color=f"C{number}" if named else "0.8", alpha=0.8, linewidth=1.2,
                markersize=3, label=f"{number + 1}. {label}" if named and line == 0 else "_", zorder=-number,
            )  # fmt: skip
    axes.set(xlabel="epoch", ylabel=measure.metric)
    handles, labels = axes.get_legend_handles_labels()
    axes.legend(handles[::-1], labels[::-1], fontsize="small")
    figure.savefig(file, dpi=120, format=None if isinstance(file, Path) else "svg")


def draw_line(rows: Sequence[Row], measure: Measure, file: Path) -> None:
    """Draw the figure over the one number that was varied."""
    values = {float(*row.values.values()): row.of(measure.metric) for row in rows}
    xs = sorted(values)
    figure, axes = start_figure(7, 4)
    errors = [stdev(values[x]) if len(values[x]) > 1 else 0 for x in xs]
    axes.errorbar(xs, [mean(values[x]) for x in xs], errors, fmt="o-", capsize=3)
    if min(xs) > 0 and max(xs) > WIDE * min(xs):
        axes.set_xscale("log")
    axes.set(xlabel=next(iter(rows[0].values)), ylabel=measure.metric)
    figure.savefig(file, dpi=120)


def draw_map(rows: Sequence[Row], measure: Measure, file: Path) -> None:
    """Draw the figure over the two numbers that were varied."""
    places = [(*map(float, row.values.values()), mean(row.of(measure.metric))) for row in rows]
    xs, ys = (sorted({place[axis] for place in places}) for axis in (0, 1))
    grid = [[float("nan")] * len(xs) for _ in ys]
    figure, axes = start_figure(1.5 + 0.8 * len(xs), 1.5 + 0.6 * len(ys))
    for x, y, value in places:
        grid[ys.index(y)][xs.index(x)] = value
        axes.text(xs.index(x), ys.index(y), f"{value:.3g}", ha="center", va="center", color="w")
    image = axes.imshow(grid, origin="lower", cmap="viridis_r" if measure.lower else "viridis", aspect="auto")
    axes.set_xticks(range(len(xs)), [f"{x:g}" for x in xs])
    axes.set_yticks(range(len(ys)), [f"{y:g}" for y in ys])
    axes.set(**dict(zip(("xlabel", "ylabel"), rows[0].values, strict=True)))
    figure.colorbar(image, label=measure.metric)
    figure.savefig(file, dpi=120)
