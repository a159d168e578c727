"""Rules for columns, from the training rows: of which kind each is, how it is written, what its words are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from descent.data.named_path import NamedPath
from descent.data.table.columns import Column
from descent.data.table.files import Format
from descent.data.table.forms import (
    SHARE,
    TRUTHS,
    Unusable,
    are_compact_dates,
    as_numbers,
    as_words,
    find_dates,
    find_marks,
    find_sign,
    settle_mark,
    share_of,
    spread,
)
from descent.errors import ConfigError

if TYPE_CHECKING:  # a second of import that only runs with tables pay for
    import polars as pl


def find_rules(
    frame: pl.DataFrame, names: Sequence[str], train: Any, categories: Sequence[str], format: Format
) -> dict[str, Column | Unusable]:
    """Return by name the kind of each column and how its values are written, or why that can not be told.

    Args:
        frame: the rows of a file.
        names: the columns.
        train: those of the rows that tell, a boolean array.
        categories: columns whose numbers are names, such as postcodes.
        format: what a person said of the file.
    """
    rules: dict[str, Column | Unusable] = {}
    for name in names:
        try:
            known = frame[name].filter(train).drop_nulls()
            rules[name] = Column(name, "category") if name in categories else find_rule(known, format)
        except Unusable as error:
            rules[name] = error
    columns = [rule for rule in rules.values() if isinstance(rule, Column)]
    sure = {column.decimal for column in columns} & {".", ","}
    for column in columns:
        if column.decimal == "=":
            column.decimal = "."
        elif column.decimal == ".,":
            some = spread(frame[column.name].filter(train).drop_nulls())
            try:
                column.decimal = settle_mark(some, sure, format.decimal, format.separator)
            except Unusable as error:
                rules[column.name] = error
    return rules


def find_rule(values: pl.Series, format: Format) -> Column:
    """Return a column's kind and how its known values are written, with all marks that `find_marks` gives.

    Raises:
        Unusable: dates may be read in two ways.
    """
    import polars as pl

    name, dtype, some = values.name, values.dtype, spread(values)
    if dtype in (pl.Date, pl.Datetime):
        return Column(name, "date")
    if are_compact_dates(some):
        return Column(name, "date", dates="%Y%m%d")
    if dtype == pl.Boolean or (dtype == pl.String and some.str.to_lowercase().is_in(TRUTHS).all()):
        return Column(name, "truth")
    if dtype != pl.String:
        return Column(name, "number")
    sign = find_sign(some)
    marks = find_marks(some, sign)
    if marks:
        return Column(name, "number", decimal=marks, sign=sign)
    dates = find_dates(values, format.dates)
    return Column(name, "date", dates=dates) if dates else Column(name, "category")


def fit_columns(
    frame: pl.DataFrame,
    train: Any,
    rules: Mapping[str, Column | Unusable],
    max_categories: int,
    file: NamedPath,
) -> tuple[list[Column], dict[str, str], Tensor]:
    """Return the rules for columns, by name why others are left out, and the inputs, `(rows, columns)`.

    Args:
        frame: the rows of a file; columns are taken out of it one by one, so that memory holds them once.
        train: those of the rows that are trained on, a boolean array.
        rules: as of `find_rules`.
        max_categories: words of a text column that are told apart; rarer ones count as never seen.
        file: that the rows were read from.

    Raises:
        ConfigError: most values of a column are of one kind, and others are not.
    """
    columns: list[Column] = []
    inputs: list[Tensor] = []
    left_out: dict[str, str] = {}
    for name, rule in rules.items():
        try:
            column, values = fit_column(frame.drop_in_place(name), train, rule, max_categories, file)
        except Unusable as error:
            left_out[name] = str(error)
            continue
        columns.append(column)
        inputs.append(values)
    return columns, left_out, torch.stack(inputs, 1) if inputs else torch.empty(len(frame), 0)


def fit_column(
    series: pl.Series, train: Any, rule: Column | Unusable, max_categories: int, file: NamedPath
) -> tuple[Column, Tensor]:
    """Return the rule of a column with what its training rows tell, and its numbers, float32 `(rows,)`.

    Arguments are those of `fit_columns`.

    Raises:
        Unusable: nothing can be learned from it.
        ConfigError: most values are of one kind, and others are not.
    """
    known = series.filter(train)
    require_varied(known)
    if isinstance(rule, Unusable):
        raise rule
    flagged = known.has_nulls()
    if rule.kind != "category":
        column = replace(rule, flagged=flagged)
        read = column.fit_marks(series)
        if read.filter(train).count() >= SHARE * known.count():
            column.fill = float(read.filter(train).fill_nan(None).median())  # type: ignore[arg-type]
            try:
                return column, column.check(read, series, file, 0)
            except ConfigError as error:
                error.expected += "; add it to data.missing, or the column to data.categories if it is text"
                raise
    column = Column(rule.name, "category", flagged=flagged, words=find_words(known, max_categories))
    return column, column.find_places(series)


def require_varied(values: pl.Series) -> None:
    """Raise an `Unusable` unless values are of a type that can be read, and not all the same."""
    import polars as pl

    dtype, gaps = values.dtype, values.null_count()
    if dtype.is_nested() or dtype in (pl.Time, pl.Binary, pl.Object):
        raise Unusable(f"of type {dtype}")
    if gaps == len(values):
        raise Unusable("no values")
    # where the ends differ, as in nearly every column, the rest need not be compared
    if gaps == 0 and values[0] == values[-1] and values.min() == values.max():
        raise Unusable(f"{values[0]} in every row")


def find_words(values: pl.Series, most: int) -> list[str]:
    """Return the most frequent words of a column; raise an `Unusable` where there are too many of them."""
    words = as_words(values.drop_nulls())
    counts = words.value_counts().sort(["count", words.name], descending=[True, False])
    if most < len(counts) and len(counts) > len(words) / 2:
        reason = f"{len(counts):,} different texts in {len(words):,} rows"
        read = as_numbers(words)
        if share_of(read) > 0.5:
            other = words.filter(read.is_null())[0]
            reason += f", {share_of(read):.0%} numbers; data.missing may name the others, such as {other!r}"
        raise Unusable(reason)
    return counts[words.name][:most].to_list()
