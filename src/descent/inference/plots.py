"""Plots of an evaluation as SVG, which browsers and GitHub show; only drawing one imports matplotlib."""

import warnings
from io import BytesIO
from math import ceil
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RIGHT, WRONG = (0.12, 0.44, 0.71), (0.75, 0.22, 0.17)  # blue and red, which the colour-blind can tell apart
COUNTS, NAMES = 20, 60  # most classes whose counts, and whose names, are shown
NAME = 24  # most characters of a name
LETTER = 0.085  # inches that a letter of 9 points takes
POINTS = 2_000  # most points of a scatter plot
COLUMNS = 4  # most scatter plots side by side
STYLE: Any = {
    "svg.fonttype": "none",  # text stays text, in whatever script a name is
    "svg.hashsalt": "descent",  # the same evaluation gives the same file
    "text.parse_math": False,  # a $ in a name is a $
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def plot_confusion(matrix: list[list[int]], names: list[str]) -> str:
    """Draw a square for each true class (row) and predicted class (column), darker the larger its share.

    The shade is the root of the share of the true class, so that one in a hundred can still be seen.
    """
    import matplotlib
    from matplotlib.figure import Figure

    counts, size = torch.tensor(matrix), len(names)
    shades = (counts / counts.sum(1, keepdim=True).clamp(min=1)).sqrt()
    colours = torch.tensor(WRONG).expand(size, size, 3).clone()
    colours[range(size), range(size)] = torch.tensor(RIGHT)
    cell = 9 / size  # inches of a square's side, with room for what is written beside it or in it
    if size <= NAMES:
        cell = max(0.42 if size <= COUNTS else 0.16, 3.5 / size)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(cell * size + 1, cell * size + 1), layout="constrained")
        figure.suptitle("Samples of each true class: blue is right, red is wrong", fontsize=9)
        axes = figure.subplots()
        axes.imshow((1 - shades.unsqueeze(2) * (1 - colours)).numpy(), interpolation="none")
        axes.set(xlabel="predicted class", ylabel="true class")
        for edge in axes.spines.values():
            edge.set(visible=True, color="0.7")
        if size <= NAMES:
            shown = [shorten(name) for name in names]
            fits = max(map(len, shown)) * LETTER <= cell
            axes.set_xticks(range(size), shown, rotation=0 if fits else 90)
            axes.set_yticks(range(size), shown)
            axes.tick_params(length=0, labelsize=9 if size <= COUNTS else 7)
        if size <= COUNTS:
            for row, column in counts.nonzero().tolist():
                label, shade = f"{int(counts[row, column])}", shades[row, column]
                axes.text(
                    column, row, label, ha="center", va="center", color="white" if shade > 0.7 else "black",
                    fontsize=9 * min(1.0, cell / LETTER / (len(label) + 1)),
                )  # fmt: skip
        return to_svg(figure)


def shorten(name: str) -> str:
    """Return a name, or its beginning if it is longer than `NAME`."""
    return name if len(name) <= NAME else f"{name[: NAME - 1]}…"


def plot_values(outputs: Tensor, targets: Tensor, names: list[str]) -> str:
    """Draw predicted against true values, `(n, len(names))`, a plot for each target."""
    import matplotlib
    from matplotlib.figure import Figure

    columns = min(COLUMNS, len(names))
    rows, step = ceil(len(names) / columns), ceil(len(targets) / POINTS)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(3.6 * columns, 3.6 * rows), layout="constrained")
        plots = figure.subplots(rows, columns, squeeze=False).flatten()
        for axes in plots[len(names) :]:
            axes.remove()
        true, predicted = targets[::step].double().T, outputs[::step].double().T
        for axes, name, x, y in zip(plots[: len(names)], names, true, predicted, strict=True):
            both = torch.cat([x, y])
            both = both[both.isfinite()]
            low, high = (float(both.min()), float(both.max())) if len(both) else (0.0, 1.0)
            margin = 0.05 * (high - low) or max(1.0, 0.05 * abs(high))
            limits = (low - margin, high + margin)
            axes.plot(limits, limits, color=WRONG, linewidth=1, zorder=1)  # where a prediction is right
            axes.scatter(x, y, s=9, color=RIGHT, alpha=0.4, linewidths=0, zorder=2)
            axes.set(xlabel=f"true {shorten(name)}", ylabel=f"predicted {shorten(name)}")
            axes.set(xlim=limits, ylim=limits, aspect="equal")
            axes.locator_params(nbins=5)
        return to_svg(figure)


def to_svg(figure: "Figure") -> str:
    """Return a figure as the text of an SVG file."""
    stream = BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about letters that matplotlib's font lacks but a browser has
        figure.savefig(stream, format="svg", metadata={"Date": None})
    return stream.getvalue().decode()
