"""What a sweep looks like: the curves of its runs, and a map where two numbers were varied."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev

from descent.run.folder import RunFolder
from descent.sweep.ranking import Measure, Row

WIDE = 30  # from the least to the largest number, above which an axis is logarithmic
NAMED = 6  # choices that get a colour and a name; the others are grey


def read_curve(folder: RunFolder, metric: str) -> tuple[list[float], list[float]]:
    """The epochs in which a run logged a metric, and its values."""
    epochs, values = [], []
    try:
        rows = list(csv.DictReader(io.StringIO(folder.metrics.read_text(encoding="utf-8"))))
    except OSError:
        return [], []
    for row in rows:
        try:
            epoch, value = float(row.get("epoch") or "nan"), float(row.get(metric) or "nan")
        except ValueError:
            continue
        if value == value:  # not in an epoch without validation
            epochs.append(epoch)
            values.append(value)
    return epochs, values


def read_names(folder: RunFolder) -> list[str]:
    """The metrics that a run has logged."""
    try:
        with folder.metrics.open(encoding="utf-8") as file:
            return next(csv.reader(file), [])
    except OSError:
        return []


def draw_curves(rows: Sequence[Row], measure: Measure, file: Path | io.StringIO) -> None:
    """Draw each run's curve of the figure that they are ranked by, the best choices in colours.

    Args:
        rows: ranked.
        measure: what they are ranked by.
        file: a path that ends in .png, or a stream for SVG.
    """
    from matplotlib.figure import Figure  # not pyplot, which looks for a display

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot()
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


def draw_line(rows: Sequence[Row], measure: Measure, file: Path) -> bool:
    """Draw the figure over one number that was varied; returns whether it is a number."""
    from matplotlib.figure import Figure

    try:
        values = {float(*row.values.values()): row.of(measure.metric) for row in rows}
    except ValueError:
        return False
    xs = sorted(values)
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    errors = [stdev(values[x]) if len(values[x]) > 1 else 0 for x in xs]
    axes.errorbar(xs, [mean(values[x]) for x in xs], errors, fmt="o-", capsize=3)
    if min(xs) > 0 and max(xs) > WIDE * min(xs):
        axes.set_xscale("log")
    axes.set(xlabel=next(iter(rows[0].values)), ylabel=measure.metric)
    figure.savefig(file, dpi=120)
    return True


def draw_map(rows: Sequence[Row], measure: Measure, file: Path) -> bool:
    """Draw the figure over two numbers that were varied; returns whether there are just two."""
    from matplotlib.figure import Figure

    places = []
    for row in rows:
        try:
            x, y = map(float, row.values.values())
        except ValueError:
            return False
        places.append((x, y, mean(row.of(measure.metric))))
    xs, ys = (sorted({place[axis] for place in places}) for axis in (0, 1))
    if len(xs) < 2 or len(ys) < 2:
        return False
    grid = [[float("nan")] * len(xs) for _ in ys]
    for x, y, value in places:
        grid[ys.index(y)][xs.index(x)] = value
    figure = Figure(figsize=(1.5 + 0.8 * len(xs), 1.5 + 0.6 * len(ys)), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(grid, origin="lower", cmap="viridis_r" if measure.lower else "viridis", aspect="auto")
    axes.set_xticks(range(len(xs)), [f"{x:g}" for x in xs])
    axes.set_yticks(range(len(ys)), [f"{y:g}" for y in ys])
    axes.set(**dict(zip(("xlabel", "ylabel"), rows[0].values, strict=True)))
    for x, y, value in places:
        axes.text(xs.index(x), ys.index(y), f"{value:.3g}", ha="center", va="center", color="w")
    figure.colorbar(image, label=measure.metric)
    figure.savefig(file, dpi=120)
    return True
