"""Pictures of an evaluation as SVG, which browsers and GitHub show; only drawing one imports matplotlib."""

import warnings
from collections.abc import Sequence
from io import BytesIO
from math import ceil
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

COUNTS, NAMES = 20, 60  # most classes whose counts, and whose names, are shown
NAME = 24  # most characters of a name
POINTS = 2_000  # most points of a scatter plot
COLUMNS = 4  # most scatter plots side by side
STYLE: Any = {
    "svg.fonttype": "none",  # text stays text, in whatever script a name is
    "svg.hashsalt": "descent",  # the same evaluation gives the same file
    "text.parse_math": False,  # a $ in a name is a $
    "font.size": 9,
}


def shorten(name: str) -> str:
    """Return a name, or its beginning if it is longer than `NAME`."""
    return name if len(name) <= NAME else f"{name[: NAME - 1]}…"


def draw_confusion(metric: Metric, matrix: Tensor, names: Sequence[str]) -> str:
    """Have torchmetrics draw a confusion matrix `(true, predicted)`; of many classes without names and counts."""
    import matplotlib
    from matplotlib.figure import Figure

    size = min(20.0, max(4.0, 0.6 * len(names)))  # inches
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(size + 1, size), layout="constrained")
        labels = [shorten(name) for name in names]
        axes = figure.subplots()
        metric.plot(matrix, ax=axes, add_text=len(names) <= COUNTS, labels=labels, cmap="Blues")  # type: ignore[operator]
        axes.tick_params(labelrotation=0)
        axes.tick_params("x", labelrotation=90 if max(map(len, labels)) > 4 else 0)
        if len(names) > NAMES:
            axes.set(xticks=[], yticks=[])
        return to_svg(figure)


def draw_values(predicted: Tensor, true: Tensor, names: Sequence[str]) -> str:
    """Draw predicted against true values, `(n, len(names))`, a plot for each target."""
    import matplotlib
    from matplotlib.figure import Figure

    columns = min(COLUMNS, len(names))
    rows, step = ceil(len(names) / columns), ceil(len(true) / POINTS)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(3.6 * columns, 3.6 * rows), layout="constrained")
        plots = figure.subplots(rows, columns, squeeze=False).flatten()
        for axes in plots[len(names) :]:
            axes.remove()
        for axes, name, x, y in zip(
            plots, names, true[::step].double().T, predicted[::step].double().T, strict=False
        ):
            ends = torch.cat([x, y]).aminmax()
            axes.plot(ends, ends, color="tab:red", linewidth=1, zorder=1)  # where a prediction is right
            axes.scatter(x, y, s=9, alpha=0.4, linewidths=0, zorder=2)
            axes.set(xlabel=f"true {shorten(name)}", ylabel=f"predicted {shorten(name)}")
        return to_svg(figure)


def to_svg(figure: Any) -> str:
    """Return a figure as the text of an SVG file."""
    stream = BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about letters that matplotlib's font lacks but a browser has
        figure.savefig(stream, format="svg", metadata={"Date": None})
    return stream.getvalue().decode()
