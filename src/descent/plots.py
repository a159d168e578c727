"""Pictures as SVG, which browsers and GitHub show: a text, so that no plotting library has to be there."""

from html import escape

from torch import Tensor

POINTS = 2_000  # at most, of a scatter plot
STYLE = "<style>text{font:11px sans-serif;fill:#222}.small{font-size:9px}.title{font-size:13px}</style>"


def confusion_picture(matrix: list[list[int]], classes: list[str]) -> str:
    """A square for each true class (row) and predicted class (column), as dark as its share of the row."""
    cell = 34 if len(classes) <= 30 else 9
    left = 20 + 7 * min(24, max(len(name) for name in classes))
    size = left + cell * len(classes)
    parts = [text(left, 16, "predicted →  (each row: a true class)", "title")]
    for i, (name, row) in enumerate(zip(classes, matrix, strict=True)):
        y = left + i * cell
        parts.append(text(left - 6, y + cell / 2 + 4, name[:24], anchor="end"))
        parts.append(
            text(0, 0, name[:24], turn=f"translate({left + i * cell + cell / 2 + 4} {left - 6}) rotate(-90)")
        )
        for j, count in enumerate(row):
            share = count / max(1, sum(row))
            x, colour = left + j * cell, "#1f6fb4" if i == j else "#c0392b"
            parts.append(
                f'<rect x="{x}" y="{y}" width="{cell - 1}" height="{cell - 1}" fill="{colour}"'
                f' fill-opacity="{share:.3f}" stroke="#ddd"/>'
            )
            if count and cell > 20:
                parts.append(text(x + cell / 2, y + cell / 2 + 4, f"{count}", "small", "middle"))
    return svg(size + 10, size + 10, parts)


def residual_picture(outputs: Tensor, targets: Tensor, names: list[str]) -> str:
    """For each target, predicted against true values; points on the line are right."""
    side, gap, parts = 300, 60, []
    step = max(1, len(targets) // POINTS)
    for index, name in enumerate(names):
        predicted, true = outputs[::step, index].double(), targets[::step, index].double()
        low = float(min(predicted.min(), true.min()))
        span = float(max(predicted.max(), true.max())) - low or 1.0
        left, top = gap + index * (side + gap), gap / 2
        parts.append(f'<rect x="{left}" y="{top}" width="{side}" height="{side}" fill="none" stroke="#888"/>')
        parts.append(f'<path d="M{left} {top + side}l{side} {-side}" stroke="#c0392b"/>')
        xs, ys = left + (true - low) / span * side, top + side - (predicted - low) / span * side
        parts += [
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2" fill="#1f6fb4" fill-opacity="0.4"/>'
            for x, y in zip(xs.tolist(), ys.tolist(), strict=True)
        ]
        parts.append(text(left + side / 2, top + side + 34, f"true {name}", anchor="middle"))
        parts.append(text(left, top - 6, f"predicted {name}", "title"))
        for share in (0, 0.5, 1):
            label = f"{low + share * span:,.4g}"
            parts.append(text(left + share * side, top + side + 16, label, "small", "middle"))
            parts.append(text(left - 4, top + side - share * side + 3, label, "small", "end"))
    return svg(gap + len(names) * (side + gap), side + 2 * gap, parts)


def text(x: float, y: float, words: str, kind: str = "", anchor: str = "start", turn: str = "") -> str:
    placed = f' transform="{turn}"' if turn else ""
    return f'<text x="{x:g}" y="{y:g}" class="{kind}" text-anchor="{anchor}"{placed}>{escape(words)}</text>'


def svg(width: float, height: float, parts: list[str]) -> str:
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:g}" height="{height:g}">'
    return "\n".join([head, STYLE, '<rect width="100%" height="100%" fill="white"/>', *parts, "</svg>\n"])
