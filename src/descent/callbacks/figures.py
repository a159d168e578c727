"""The names of what a run logs, and its values as plain numbers."""

import shutil
import sys
import textwrap
from collections.abc import Iterable
from math import isfinite
from typing import Any

DEFAULT = "val/loss"  # what is monitored unless something else is asked for
TITLES = {"loss": "Loss", "acc": "Acc", "mae": "MAE", "r2": "R²"}  # as the tutorial prints them


def to_number(value: Any) -> float:
    """Return a tensor of one number with seven digits, which is all that float32 has."""
    return float(f"{value.item():.7g}")


def without_nan(node: Any) -> Any:
    """Return nested dicts with None for NaN and infinity, which JSON does not have."""
    if isinstance(node, dict):
        return {name: without_nan(value) for name, value in node.items()}
    return None if isinstance(node, float) and not isfinite(node) else node


def fit_terminal(line: str) -> str:
    """Wrap a line that is wider than the terminal, between words."""
    if not sys.stdout.isatty():
        return line
    width = shutil.get_terminal_size().columns
    return textwrap.fill(line, width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


def title_of(figure: str) -> str:
    """Return a figure's name as the tutorial prints it: "Val Acc" for "val/acc"."""
    stage, slash, name = figure.partition("/")
    return f"{stage.capitalize()} {TITLES.get(name, name)}" if slash else TITLES.get(figure, figure)


def find_like(names: Iterable[str]) -> str:
    """Return the name that is most like the default: of validation rather than training, and a loss."""
    known = [name for name in names if name not in ("epoch", "step", "seconds")]
    return min(known, key=lambda name: ("val" not in name, "loss" not in name))
