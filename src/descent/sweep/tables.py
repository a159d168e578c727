"""Shows a ranking: as a table in the terminal, and as files with pictures.

A sweep imports this only after its runs, because a process that is forked after polars is imported may hang.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import polars as pl

from descent.run.atomic import write_text
from descent.sweep.pictures import draw
from descent.sweep.ranking import FEW, Measure, Row, list_figures

FILES = {"ranking.csv", "ranking.md", "curves.png", "line.png", "map.png"}
SHOWN, ENDLESS = 20, 10_000  # rows on the terminal; characters across in a file


def show(rows: Sequence[Row], measure: Measure) -> str:
    """Return the best rows as a table that fits the terminal, and an explanation."""
    table, columns = tabulate(rows[:SHOWN], measure), shutil.get_terminal_size().columns
    while max(map(len, draw_table(table, ENDLESS).split("\n"))) > columns and table.columns[-1] != "runs":
        table = table.drop(table.columns[-1])
    more = f"\n… and {len(rows) - SHOWN} more" if len(rows) > SHOWN else ""
    return f"{draw_table(table, columns + 2)}{more}\n\n{explain(rows, measure)}"


def publish(rows: Sequence[Row], measure: Measure, folder: Path, note: str = "") -> None:
    """Write the ranking and its pictures into a folder."""
    columns: dict[str, Any] = {"rank": range(1, len(rows) + 1)}
    columns |= {key: [row.values[key] for row in rows] for key in rows[0].values}
    for name in list_figures(rows):
        values = [row.of(name) for row in rows]
        columns[f"{name} mean"] = [mean(column) if column else None for column in values]
        columns[f"{name} std"] = [stdev(column) if len(column) > 1 else None for column in values]
    columns |= {"runs": [len(row.points) for row in rows], "near": [row.near for row in rows]}
    write_text(folder / "ranking.csv", pl.DataFrame(columns).write_csv())
    table = draw_table(tabulate(rows, measure), ENDLESS, "ASCII_MARKDOWN")
    write_text(folder / "ranking.md", f"{table}\n\n{explain(rows, measure)}\n{note}")
    draw(rows, measure, folder)


def tabulate(rows: Sequence[Row], measure: Measure) -> pl.DataFrame:
    """Return the ranking as texts, with a column for each key that varies."""
    losses = ["test/loss"] if measure.monitor else []  # which do not compare
    tests = [name for name in list_figures(rows) if "test/" in name and name not in losses]
    marks = {True: "≈", False: "", None: "?" if any(len(row.points) > 1 for row in rows) else ""}
    table = {"": ["best", *(marks[row.near] for row in rows[1:])]}
    table |= {key: [row.values[key] for row in rows] for key in rows[0].values}
    table[measure.metric] = [write_spread(row.of(measure.metric)) for row in rows]
    table["runs"] = [str(len(row.points)) for row in rows]
    table |= {name: [write_spread(row.of(name)) for row in rows] for name in tests}
    table["seconds"] = [f"{mean(row.of('seconds') or [0.0]):.1f}" for row in rows]
    return pl.DataFrame(table)


def write_spread(values: Sequence[float]) -> str:
    """Return `0.9731 ± 0.0052`: the mean and the standard deviation; `–` of nothing."""
    spread = f" ± {stdev(values):.2g}" if len(values) > 1 else ""
    return f"{mean(values):.4g}{spread}" if values else "–"


def draw_table(table: pl.DataFrame, width: int, form: Any = "NOTHING") -> str:
    """Return a table of limited width; longer texts wrap."""
    with pl.Config(
        tbl_formatting=form, tbl_width_chars=width, tbl_rows=-1, tbl_cols=-1, fmt_str_lengths=ENDLESS,
        tbl_hide_column_data_types=True, tbl_hide_dataframe_shape=True,
    ):  # fmt: skip
        return "\n".join(line.removeprefix(" ").rstrip() for line in str(table).splitlines())


def explain(rows: Sequence[Row], measure: Measure) -> str:
    """Return what the ranking and its marks mean, in words."""
    at = "each run's best epoch"
    if measure.monitor:
        at = f"the best epoch by {measure.monitor}, because losses do not compare"
    text = f"Ranked by {measure.metric} at {at}.\nMean ± standard deviation."
    if any(row.near for row in rows):
        text += "\n≈: within the noise of the best (95 % of the paired differences contain 0)."
    if any(row.near is None for row in rows):
        text += f"\n?: too few seeds to tell a difference from noise; {FEW} in common are enough."
    return text
