"""What was understood of a table, in lines: a person sees before training what it is about to be."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta

from torch import Tensor

from descent.data.table.columns import Column

SHOWN = 10  # classes whose number of rows is told


def describe_splits(rows: Mapping[str, Tensor], total: int) -> str:
    """Return the line that counts the rows of each split, and those without a target."""
    sizes = ", ".join(f"{len(part):,} {name}" for name, part in rows.items())
    gaps = total - sum(len(part) for part in rows.values())
    return f"  split     {sizes}" + (f"; left out, without a target: {gaps:,}" if gaps else "")


def describe_targets(targets: Sequence[Column], values: Tensor) -> list[str]:
    """Return a line a target.

    Args:
        targets: the rules.
        values: of the training rows: class indices, or values `(rows, targets)`.
    """
    classes = targets[0].words
    if not classes:
        return [
            f"  target    {target.name:<20} a value from {column.min():,.6g} to {column.max():,.6g}"
            for target, column in zip(targets, values.T, strict=True)
        ]
    counts = values.bincount(minlength=len(classes)).tolist()
    shown = [f"{name} {count:,}" for name, count in list(zip(classes, counts, strict=True))[:SHOWN]]
    more = ", …" if len(classes) > SHOWN else ""
    return [f"  target    {targets[0].name:<20} {len(classes)} classes: {', '.join(shown)}{more}"]


def describe_columns(columns: Sequence[Column], left_out: Mapping[str, str], inputs: Tensor) -> list[str]:
    """Return a line a column.

    Args:
        columns: the rules.
        left_out: by name, why other columns are not learned from.
        inputs: of the training rows, `(rows, columns)`.
    """
    pairs = zip(columns, inputs.T.contiguous(), strict=True)
    lines = [f"  {column.kind:<9} {column.name:<20} {describe_column(column, v)}" for column, v in pairs]
    return lines + [f"  left out  {name:<20} {reason}" for name, reason in left_out.items()]


def describe_column(column: Column, values: Tensor) -> str:
    """Return the words of a category, or the range of numbers or dates, and how many are missing."""
    if column.kind == "category":
        gaps = int((values == len(column.words)).sum())
        others = int((values < 0).sum())
        shown = ", ".join(column.words[:5]) + (", …" if len(column.words) > 5 else "")
        shown += f"; {gaps:,} missing" if gaps else ""
        return f"{len(column.words)} words: {shown}" + (f"; {others:,} of other words" if others else "")
    gaps = int(values.isnan().sum())
    if column.kind == "truth":
        return f"true in {values.nanmean():.0%} of the rows" + (f"; {gaps:,} missing" if gaps else "")
    low, high = (values[~values.isnan()] if gaps else values).aminmax()
    taken_as = f"; {gaps:,} missing, taken as {show_value(column, column.fill)}" if gaps else ""
    return f"from {show_value(column, float(low))} to {show_value(column, float(high))}{taken_as}"


def show_value(column: Column, value: float) -> str:
    """Return a number, or the date that it stands for."""
    if column.kind != "date":
        return f"{value:,.6g}"
    return f"{datetime(1970, 1, 1, tzinfo=UTC) + timedelta(days=value):%Y-%m-%d}"
