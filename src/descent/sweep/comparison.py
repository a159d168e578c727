"""Any runs side by side: ranked, with what differs in their configs, in words and as a page of its own."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from glob import glob
from html import escape
from pathlib import Path
from typing import Any

from descent.errors import ConfigError, as_typed
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
    rank,
    tabulate,
    to_text,
)

PLACES = ("name", "folder", "resume", "jobs")  # fields of a config that say nothing of what a run computes
GENERATOR = '<meta name="generator" content="descent">'
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 75rem; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; display: block; overflow-x: auto; margin: 1rem 0 }
th, td { padding: .3rem .7rem; border-bottom: 1px solid #ddd; text-align: left; white-space: nowrap }
tr:nth-child(2).ranked { font-weight: 600 } svg { max-width: 100%; height: auto }
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
        """The comparison for a terminal."""
        lines = [to_text(tabulate(self.rows, self.measure)), "", explain_marks(self.rows, self.measure)]
        if left_out := [str(point.folder) for point in self.points if point.state() != "done"]:
            lines.append(f"Not at their end: {', '.join(left_out)}")
        table = [[key, ", ".join(dict.fromkeys(values))] for key, values in self.differences.items()]
        if table:
            lines += ["", "What differs in their configs:", to_text(table)]
        return "\n".join(lines)

    def page(self) -> str:
        """The comparison as HTML that loads nothing."""
        picture = io.StringIO()
        draw_curves(self.rows, self.measure, picture)
        svg = picture.getvalue()
        names = [str(point.folder) for point in self.points]
        differences = [["", *names], *([key, *values] for key, values in self.differences.items())]
        title = f"{len(self.points)} runs by {self.measure.metric}"
        parts = [
            f"<!DOCTYPE html>\n<html lang='en'><head><meta charset='utf-8'>{GENERATOR}",
            f"<title>{escape(title)}</title><style>{STYLE}</style></head><body><h1>{escape(title)}</h1>",
            to_html(tabulate(self.rows, self.measure)),
            f"<p>{escape(explain_marks(self.rows, self.measure))}</p>",
            svg[svg.index("<svg") :],
            "<h2>What differs in their configs</h2>",
            to_html(differences),
            "</body></html>\n",
        ]
        return "\n".join(parts)


def compare_runs(paths: Sequence[str], monitor: str | None, mode: str | None) -> Comparison:
    """Read and rank runs.

    Args:
        paths: folders of runs, or with runs in them, or patterns.
        monitor, mode: what to rank by; None for what the first run monitors.

    Raises:
        ConfigError: there are no runs, or none with that metric.
    """
    folders = find_folders_of(paths)
    configs = [read_settings(folder) for folder in folders]
    differences = find_differences(configs)
    points = []
    for number, folder in enumerate(folders):
        values = {shorten_key(key): column[number] for key, column in differences.items() if "" not in column}
        words = read_yaml(folder.overrides) if folder.overrides.is_file() else []
        points.append(Point(values, tuple(map(str, words)), folder))
    rows = collect(points)
    if not rows:
        raise ConfigError("runs", list(paths), expected="runs that have come to their end")
    figures = next(iter(rows[0].figures.values()))
    measure = choose_measure(str(configs[0].get("monitor")), str(configs[0].get("mode")), list(differences), figures)
    if monitor is not None:
        measure = Measure(monitor, is_less_better(monitor), f"{monitor} at each run's best epoch")
    if mode is not None:
        measure.lower = mode == "min"
    if not (ranked := rank(rows, measure)):
        raise ConfigError("monitor", measure.metric, expected=f"one of {', '.join(figures)}", choices=figures)
    return Comparison(ranked, measure, points, differences)
