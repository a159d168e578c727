"""Any runs side by side: ranked, with what differs in their configs, in words and as a page of its own."""

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from glob import glob
from html import escape
from pathlib import Path
from typing import Any

from descent.errors import ConfigError, as_typed, require
from descent.run.atomic import write_text
from descent.run.folder import RunFolder, find_runs, read_yaml
from descent.run.resume import flatten
from descent.sweep.pictures import draw_curves
from descent.sweep.plan import Point
from descent.sweep.ranking import (
    Measure,
    Row,
    choose_measure,
    collect,
    explain_marks,
    is_less_better,
    rank,
    tabulate,
    to_text,
)

PLACES = ("name", "folder", "resume", "jobs")  # fields of a config that say nothing of what a run computes
GENERATOR = '<meta name="generator" content="descent">'
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 75rem; padding: 0 1rem }
table { border-collapse: collapse; display: block; overflow-x: auto; margin: 1rem 0 }
th, td { padding: .3rem .7rem; border-bottom: 1px solid #ddd; text-align: left; white-space: nowrap }
svg { max-width: 100%; height: auto }
"""


@dataclass
class Comparison:
    """Runs side by side.

    Attributes:
        rows: the choices, ranked.
        measure: what they are ranked by.
        points: all runs, those that have not ended included.
        differences: of their configs: the values of each key, in the order of the runs.
    """

    rows: list[Row]
    measure: Measure
    points: list[Point]
    differences: dict[str, list[str]]

    def text(self) -> str:
        """Return the comparison for a terminal."""
        lines = [to_text(tabulate(self.rows, self.measure)), "", explain_marks(self.rows, self.measure)]
        if left_out := [str(point.folder) for point in self.points if point.state() != "done"]:
            lines.append(f"Not at their end: {', '.join(left_out)}")
        table = [[key, ", ".join(dict.fromkeys(values))] for key, values in self.differences.items()]
        if table:
            lines += ["", "What differs in their configs:", to_text(table)]
        return "\n".join(lines)

    def page(self) -> str:
        """Return the comparison as HTML that loads nothing."""
        picture = io.StringIO()
        draw_curves(self.rows, self.measure, picture)
        svg = picture.getvalue()
        names = [str(point.folder) for point in self.points]
        differences = [["", *names], *([key, *values] for key, values in self.differences.items())]
        head = escape(f"{len(self.points)} runs by {self.measure.metric}")
        parts = [
            f"<!DOCTYPE html>\n<html lang='en'><head><meta charset='utf-8'>{GENERATOR}",
            f"<title>{head}</title><style>{STYLE}</style></head><body><h1>{head}</h1>",
            to_html(tabulate(self.rows, self.measure)),
            f"<p>{escape(explain_marks(self.rows, self.measure))}</p>",
            svg[svg.index("<svg") :],
            "<h2>What differs in their configs</h2>",
            to_html(differences),
            "</body></html>\n",
        ]
        return "\n".join(parts)


def compare_runs(paths: Sequence[str], by: str | None) -> Comparison:
    """Read and rank runs.

    Args:
        paths: folders of runs, or with runs in them, or patterns.
        by: the metric to rank by; None for what the first run monitors.

    Raises:
        ConfigError: there are no runs that have ended, or none with that metric.
    """
    folders = find_folders(paths)
    configs = [read_settings(folder) for folder in folders]
    differences = list_differences(configs)
    choices = leave_out_followers(differences)
    points = []
    for number, folder in enumerate(folders):
        values = {title(key): title(column[number]) for key, column in choices.items()}
        words = read_yaml(folder.overrides) if folder.overrides.is_file() else []
        points.append(Point(values, tuple(map(str, words)), folder))
    rows = collect(points)
    if not rows:
        raise ConfigError("runs", list(paths), expected="runs that have come to their end")
    figures = next(iter(rows[0].figures.values()))
    measure = Measure(str(by), is_less_better(str(by)), f"{by} at each run's best epoch")
    if by is None:
        usual = [str(configs[0].get(key)) for key in ("monitor", "mode")]
        measure = choose_measure(usual[0], usual[1], list(differences), figures)
    if not (ranked := rank(rows, measure)):
        raise ConfigError("by", measure.metric, expected=f"one of {', '.join(figures)}", choices=figures)
    return Comparison(ranked, measure, points, differences)


def find_folders(paths: Sequence[str]) -> list[RunFolder]:
    """Return the runs that paths and patterns name, in their order, each once.

    Raises:
        ConfigError: one of them names none.
    """
    found: dict[Path, RunFolder] = {}
    for path in paths:
        places = [path] if Path(path).exists() else sorted(glob(path))  # noqa: PTH207 (may be absolute)
        for place in places:
            runs = sorted(find_runs(Path(place).resolve()), key=lambda run: run.path)
            found |= {run.path: run for run in runs}
        if not found:
            raise ConfigError("runs", path, expected="the folder of a run, or one with runs in it")
    require(bool(found), "runs", list(paths), "folders of runs: python src/compare.py logs/a logs/b")
    return list(found.values())


def read_settings(folder: RunFolder) -> dict[str, Any]:
    """Return every value of a run's config by its key, without those that say where it is."""
    config = read_yaml(folder.config)
    if not isinstance(config, dict):
        raise ConfigError(str(folder.config), expected="the config of a run")
    here = str(config.get("folder"))
    values = {key: value for key, value in flatten(config) if key not in PLACES}
    return {k: v.replace(here, "…") if isinstance(v, str) else v for k, v in values.items()}


def list_differences(configs: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Return the values of each key in which configs differ, `–` where one has no such key.

    Of keys that differ in the same way, such as `seed` and `data.seed`, the first one is kept.
    """
    found: dict[str, list[str]] = {}
    for key in dict.fromkeys(key for config in configs for key in config):
        column = [as_typed(config[key]) if key in config else "–" for config in configs]
        if len(set(column)) > 1 and column not in found.values():
            found[key] = column
    return found


def leave_out_followers(differences: Mapping[str, list[str]]) -> dict[str, list[str]]:
    """Return the keys that all configs have and that tell them apart in ways of their own.

    `optimizer.lr` is left out where it is another one for each optimizer, and only there.
    """
    found: dict[tuple[int, ...], str] = {}
    for key, column in differences.items():
        if "–" not in column:
            found.setdefault(tuple(map(column.index, column)), key)
    return {key: differences[key] for key in found.values()}


def title(text: str) -> str:
    """Return `loss` for `loss._target_`, and `MeanAbsoluteError` for `descent.losses.MeanAbsoluteError`."""
    if text.endswith("._target_"):
        return text.removesuffix("._target_")
    return re.sub(r"^([A-Za-z_]\w*\.)+(?=[A-Z]\w*$)", "", text)


def to_html(table: Sequence[Sequence[str]]) -> str:
    """Return a table in HTML, whose first line is its head."""
    lines = []
    for number, cells in enumerate(table):
        tag = "td" if number else "th"
        lines.append("<tr>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in cells) + "</tr>")
    return "<table>" + "\n".join(lines) + "</table>"


def write_page(comparison: Comparison, output: str) -> None:
    """Write the page.

    Raises:
        ConfigError: the file is there and is something else, or cannot be written.
    """
    path = Path(output).expanduser()
    try:
        if path.exists() and GENERATOR not in path.read_text(encoding="utf-8", errors="replace")[:200]:
            raise ConfigError("output", output, expected="a new file, or a page that this command wrote")
        write_text(path, comparison.page())
    except OSError as error:
        expected = f"a file that can be written ({error.strerror})"
        raise ConfigError("output", output, expected=expected) from error
