"""Columns of a table as numbers: rules are fitted on the training rows and applied to any later row.

Polars computes them; `Encoder`, which is a part of the model, needs torch alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import pi
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from descent.data.named_path import NamedPath
from descent.data.table.files import Format
from descent.data.table.forms import (
    SHARE,
    TRUTHS,
    Unclear,
    are_compact_dates,
    as_days,
    as_numbers,
    as_truths,
    as_words,
    find_dates,
    find_marks,
    find_sign,
    settle_mark,
    share_of,
    spread,
)
from descent.errors import ConfigError, nearest

if TYPE_CHECKING:  # a second of import that only runs with tables pay for
    import polars as pl

YEAR, WEEK, DAY = 365.2425, 7.0, 1.0  # periods of a date, in days


@dataclass
class Column:
    """How one column of a file becomes one number a row.

    - number: itself; NaN where it is missing. A duration is its seconds.
    - truth: 1 where it is true, 0 where it is false; NaN where it is missing.
    - date: days since 1970-01-01, with the time of day as a fraction.
    - category: its place in `words`; len(words) where it is missing; -1 where it was never seen in training.

    Attributes:
        name: in the file's header.
        kind: one of the four.
        fill: what stands for a missing number or date: the median of the training rows.
        flagged: values were missing in the training rows too, so that a feature of its own says where.
        words: the categories of the training rows, the most frequent first; or the classes of a target.
        decimal, sign: of numbers in text, as of `forms.as_numbers`.
        dates: how dates are written in text, as of `forms.as_days`.
    """

    name: str
    kind: Literal["number", "truth", "date", "category"]
    fill: float = 0.0
    flagged: bool = False
    words: list[str] = field(default_factory=list)
    decimal: str = ""
    sign: str = ""
    dates: str = "iso"

    def to_numbers(self, series: pl.Series, file: NamedPath, first: int = 0) -> Tensor:
        """Return one number a row, float32 `(rows,)`.

        Args:
            series: the column as it was read.
            file: that it was read from.
            first: number of the file's rows before these.

        Raises:
            ConfigError: a value of another kind than the column's, naming row and value.
        """
        if self.kind == "category":
            return self.find_places(series)
        return self.check(self.read(series), series, file, first)

    def find_places(self, series: pl.Series) -> Tensor:
        """Return the place of each category in `words`, float32 `(rows,)`."""
        import polars as pl

        text, words = as_words(series), self.words
        if sorted(word.lower() for word in words) == TRUTHS:  # True here may be true there
            text, words = text.str.to_lowercase(), [word.lower() for word in words]
        places = text.cast(pl.Enum(words), strict=False).to_physical().cast(pl.Float32).fill_null(-1.0)
        if self.flagged:
            places = places.zip_with(text.is_not_null(), pl.Series([float(len(words))]))
        return places.to_torch()

    def read(self, series: pl.Series) -> pl.Series:
        """Return numbers, truths or dates as Float64; null where one is missing or of another kind."""
        if self.kind == "date":
            return as_days(series, self.dates)
        return as_truths(series) if self.kind == "truth" else as_numbers(series, self.decimal, self.sign)

    def fit_marks(self, series: pl.Series) -> pl.Series:
        """Return what `read` gives; from now on, no marks between thousands are taken if there are none here.

        Else 1,234 would be a thousand where the next file means it as a decimal comma.
        """
        plain = replace(self, decimal="")
        if self.kind == "number" and self.decimal == "." and not self.sign:
            read = plain.read(series)
            if read.null_count() == series.null_count():
                self.decimal = ""
                return read
        return self.read(series)

    def check(self, read: pl.Series, series: pl.Series, file: NamedPath, first: int) -> Tensor:
        """Return what `read` gave, float32 `(rows,)`; other arguments and errors as of `to_numbers`."""
        import polars as pl

        numbers = read.cast(pl.Float32)
        wrong = (read.is_null() & series.is_not_null()) | numbers.is_infinite().fill_null(False)
        if wrong.any():
            row = int(wrong.arg_max())  # type: ignore[arg-type]
            kind = "true or false" if self.kind == "truth" else f"a {self.kind}"
            raise file.error(
                f"{kind} in each row of column {self.name}, but row {first + row + 1:,} has {series[row]!r}"
            )
        return numbers.fill_null(float("nan")).to_torch()


def find_rules(
    frame: pl.DataFrame, names: Sequence[str], train: Any, categories: Sequence[str], format: Format
) -> dict[str, Column | str]:
    """Return by name the kind of each column and how its values are written, or why that can not be told.

    Args:
        frame: the rows of a file.
        names: the columns.
        train: those of the rows that tell, a boolean array.
        categories: columns whose numbers are names, such as postcodes.
        format: what a person said of the file.
    """
    rules: dict[str, Column | str] = {}
    doubtful: dict[str, Column] = {}
    others = set()
    for name in names:
        try:
            rule, marks = find_rule(frame[name].filter(train).drop_nulls(), format)
        except Unclear as error:
            rules[name] = str(error)
            continue
        rules[name] = Column(name, "category") if name in categories else rule
        if marks == ".,":
            doubtful[name] = rule
        elif marks in (".", ","):
            others.add(marks)
    for name in set(doubtful).difference(categories):
        try:
            some = spread(frame[name].filter(train).drop_nulls())
            doubtful[name].decimal = settle_mark(some, others, format.decimal, format.separator)
        except Unclear as error:
            rules[name] = str(error)
    return rules


def find_rule(values: pl.Series, format: Format) -> tuple[Column, str]:
    """Return a column's kind and how its values are written, and the decimal marks as of `find_marks`.

    Args:
        values: those that are known.
        format: what a person said of the file.

    Raises:
        Unclear: dates may be read in two ways.
    """
    import polars as pl

    name, dtype, some = values.name, values.dtype, spread(values)
    if dtype in (pl.Date, pl.Datetime):
        return Column(name, "date"), ""
    if are_compact_dates(some):
        return Column(name, "date", dates="%Y%m%d"), ""
    if dtype == pl.Boolean or (dtype == pl.String and some.str.to_lowercase().is_in(TRUTHS).all()):
        return Column(name, "truth"), ""
    if dtype != pl.String:
        return Column(name, "number"), ""
    sign = find_sign(some)
    marks = find_marks(some, sign)
    if marks:
        return Column(name, "number", decimal="," if marks == "," else ".", sign=sign), marks
    dates = find_dates(values, format.dates)
    return (Column(name, "date", dates=dates) if dates else Column(name, "category")), ""


def fit_columns(
    frame: pl.DataFrame, train: Any, rules: Mapping[str, Column | str], max_categories: int, file: NamedPath
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
    left_out: dict[str, str] = {}
    inputs: list[Tensor] = []
    for name, rule in rules.items():
        series = frame.drop_in_place(name)
        known = series.filter(train)
        reason = explain_no_rule(known)
        if reason or isinstance(rule, str):
            left_out[name] = reason or str(rule)
            continue
        column = replace(rule, flagged=known.has_nulls())
        read = None if rule.kind == "category" else column.fit_marks(series)
        if read is not None and read.filter(train).count() >= SHARE * known.count():
            column.fill = float(read.filter(train).fill_nan(None).median())  # type: ignore[arg-type]
        else:
            words, reason = find_words(known, max_categories)
            if reason:
                left_out[name] = reason
                continue
            column, read = Column(name, "category", flagged=column.flagged, words=words), None
        columns.append(column)
        try:
            places = column.find_places(series) if read is None else column.check(read, series, file, 0)
            inputs.append(places)
        except ConfigError as error:
            error.expected += "; add it to data.missing, or the column to data.categories if it is text"
            raise
    return columns, left_out, torch.stack(inputs, 1) if inputs else torch.empty(len(frame), 0)


def explain_no_rule(values: pl.Series) -> str:
    """Return why nothing can be learned from a column, or ""."""
    import polars as pl

    dtype, gaps = values.dtype, values.null_count()
    if dtype.is_nested() or dtype in (pl.Time, pl.Binary, pl.Object):
        return f"of type {dtype}"
    if gaps == len(values):
        return "no values"
    ends_alike = (
        gaps == 0 and values[0] == values[-1]
    )  # as hardly any column's: else all need not be compared
    return f"{values[0]} in every row" if ends_alike and values.min() == values.max() else ""


def find_words(values: pl.Series, most: int) -> tuple[list[str], str]:
    """Return the most frequent words of a column, and why they are too many to learn from, or ""."""
    words = as_words(values.drop_nulls())
    counts = words.value_counts().sort(["count", words.name], descending=[True, False])
    if most < len(counts) and len(counts) > len(words) / 2:
        reason = f"{len(counts):,} different texts in {len(words):,} rows"
        read = as_numbers(words)
        if share_of(read) > 0.5:
            other = words.filter(read.is_null())[0]
            reason += f", {share_of(read):.0%} numbers; data.missing may name the others, such as {other!r}"
        return [], reason
    return counts[words.name][:most].to_list(), ""


def to_inputs(columns: Sequence[Column], frame: pl.DataFrame, file: NamedPath, first: int = 0) -> Tensor:
    """Return the rows of a file as `Encoder` takes them, float32 `(rows, columns)`.

    Args:
        columns: the rules.
        frame: rows of a file, as of `files.tidy`; columns that have no rule are passed over.
        file: that they were read from.
        first: number of the file's rows before these.

    Raises:
        ConfigError: a column is missing, or a value is of another kind than its column's.
    """
    inputs = torch.empty(len(frame), len(columns))
    for index, column in enumerate(columns):
        require_column(column.name, frame, file, f"a column {column.name}")
        inputs[:, index] = column.to_numbers(frame[column.name], file, first)
    return inputs


def require_column(name: str, frame: pl.DataFrame, file: NamedPath, expected: str) -> None:
    """Raise a `ConfigError` that tells the nearest column, unless the file has one of this name."""
    if name not in frame.columns:
        error = file.error(expected)
        error.nearest = nearest(name, frame.columns)
        raise error


def to_targets(targets: Sequence[Column], frame: pl.DataFrame, file: NamedPath, first: int = 0) -> Tensor:
    """Return class indices, int64 `(rows,)`, or values, float32 `(rows, targets)`; -1 or NaN if missing.

    Args:
        targets: the rules: one category, whose words are the classes, or numbers.
        frame: rows of a file, as of `files.tidy`.
        file: that they were read from.
        first: number of the file's rows before these.

    Raises:
        ConfigError: a column is missing, or a value is no number or none of the classes, naming its row.
    """
    for target in targets:
        require_column(target.name, frame, file, f"the target's column {target.name}")
    if targets[0].kind != "category":
        return torch.stack([target.to_numbers(frame[target.name], file, first) for target in targets], 1)
    target, series = targets[0], frame[targets[0].name]
    places = target.find_places(series).long()
    unseen = (places < 0) & torch.from_numpy(series.is_not_null().to_numpy().copy())
    if unseen.any():
        row = int(unseen.int().argmax())
        raise file.error(
            f"one of the classes {', '.join(target.words[:20])} in column {target.name}, but row"
            f" {first + row + 1:,} has {series[row]!r}"
        )
    return places


def as_values(classes: Sequence[str]) -> pl.Series:
    """Return the names of classes as the values that they are: whole numbers, true and false, or text."""
    import polars as pl

    names = pl.Series(classes, dtype=pl.String)
    if list(classes) == TRUTHS:
        return names == "true"
    numbers = names.cast(pl.Int64, strict=False)
    return numbers if not numbers.has_nulls() and numbers.cast(pl.String).equals(names) else names


class Encoder(nn.Module):
    """From one number a column to the features that a model sees.

    Numbers and dates come first, and a missing one is the training rows' median. Columns with missing values
    in training have a feature that is 1 where the value is missing. Then come sine and cosine of a date's
    place in the year, the week and the day, and for each category a feature that is 1 where it is. All of
    them are 0 for a category that training never saw.

    Args:
        columns: the rules, in the order of the inputs.

    Attributes:
        scaled: number of features that can be of any size, which come first; the others are from -1 to 1.
    """

    numbers: Tensor
    fill: Tensor
    flagged: Tensor
    dates: Tensor
    periods: Tensor
    categories: Tensor
    codes: Tensor

    def __init__(self, columns: Sequence[Column]) -> None:
        super().__init__()
        numbers = [i for i, column in enumerate(columns) if column.kind != "category"]
        words = [
            (i, code)
            for i, column in enumerate(columns)
            if column.kind == "category"
            for code in range(len(column.words) + column.flagged)
        ]
        self.scaled = len(numbers)

        def constant(name: str, values: list[int] | list[float], dtype: torch.dtype) -> None:
            self.register_buffer(name, torch.tensor(values, dtype=dtype), persistent=False)

        constant("numbers", numbers, torch.int64)
        constant("fill", [columns[i].fill for i in numbers], torch.float32)
        constant("flagged", [k for k, i in enumerate(numbers) if columns[i].flagged], torch.int64)
        constant("dates", [k for k, i in enumerate(numbers) if columns[i].kind == "date"], torch.int64)
        constant("periods", [YEAR, WEEK, DAY], torch.float32)
        constant("categories", [i for i, _ in words], torch.int64)
        constant("codes", [float(code) for _, code in words], torch.float32)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the features `(rows, features)` of inputs `(rows, columns)` as of `to_inputs`, float32."""
        numbers = inputs[:, self.numbers]
        missing = numbers.isnan()
        numbers = torch.where(missing, self.fill, numbers)
        parts = [numbers, missing[:, self.flagged].to(inputs.dtype)]
        if len(self.dates):
            turns = numbers[:, self.dates].unsqueeze(2) / self.periods
            angles = 2 * pi * (turns - turns.floor()).flatten(1)
            parts += [angles.sin(), angles.cos()]
        parts.append(inputs[:, self.categories].eq(self.codes).to(inputs.dtype))
        return torch.cat(parts, 1)
