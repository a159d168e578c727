"""Turns table columns into numbers, by rules from the training rows that become the run's schema."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import polars as pl
import torch
from torch import Tensor

from descent.data.named_path import NamedPath
from descent.errors import ConfigError
from descent.table.files import ORDERS, Format, as_words

TRUTHS = ["false", "true"]  # in any letter case
STRAY = 0.1  # share of values that may be of another kind than the column's; they are reported as errors
EXACT = 1 << 53  # whole numbers beyond this lose digits in float64
YEARS = (-30_610_224_000.0, 253_402_300_799.0)  # 1000 to 9999, in seconds; "20" is no year of "%Y"
ISO = ["%Y-%m-%d", "%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%d %H:%M", "%Y-%m-%d %H:%M:%S%.f%#z"]
DAY, MONTH = r"\d{1,4}", r"\p{L}{3,9}\.?"
UNREAD = (  # numbers such as $1,234.50 or 5 %, and dates such as 31.12.2020 10:00 or Jun 12, 1998
    r"^([+-]?\p{Sc}?\s?\d[\d.,'\s]*(\p{Sc}|%)?"
    rf"|({DAY}[./-]{DAY}[./-]{DAY}|{DAY}[ -]{MONTH}[ -]{DAY}|{MONTH} {DAY},? {DAY})([ T]\d.*)?)$"
)


@dataclass
class Column:
    """How one column of a file becomes one number per row.

    Attributes:
        kind: "number"; "date", seconds since 1970-01-01; "boolean" or, of a target, "class", the place in
            `words`; each is NaN where it is missing. "category": the place in `words`, len(words) where it
            is missing, -1 where training never saw it.
        fill: replaces a missing number or date: the median of the training rows.
        flagged: values were missing in the training rows too, so a separate feature marks them.
        words: false and true, the classes, or the categories of the training rows, the most frequent first.
    """

    name: str
    kind: str
    fill: float = 0.0
    flagged: bool = False
    words: list[str] = field(default_factory=list)
    decimal: str = "point"
    dates: str = "auto"

    def read(self, series: pl.Series) -> pl.Series:
        """Return the numbers, Float64; null where a value is missing, of another kind, or an unknown word."""
        if self.words:
            text, words = as_words(series), self.words
            if sorted(word.lower() for word in words) == TRUTHS:  # True here may be true in another file
                text, words = text.str.to_lowercase(), [word.lower() for word in words]
            return text.cast(pl.Enum(words), strict=False).to_physical().cast(pl.Float64)
        if self.kind == "date":
            return as_seconds(series, self.dates)
        return as_numbers(series, self.decimal)


def to_numbers(columns: Sequence[Column], frame: pl.DataFrame, file: NamedPath, first: int = 0) -> Tensor:
    """Return float64 `(rows, columns)` of rows after the `first`, or a ConfigError at what does not fit."""
    numbers = torch.empty(len(frame), len(columns), dtype=torch.float64)
    for place, column in enumerate(columns):
        name, words = column.name, column.words
        if name not in frame.columns:
            expected = f"a column {name}"
            raise ConfigError(file.key, file.path, expected=expected, choices=frame.columns, meant=name)
        series = frame[name]
        read = column.read(series)
        if column.kind == "category":
            read = read.fill_null(-1.0).set(series.is_null(), float(len(words)))
        wrong = (read.is_null() & series.is_not_null()) | read.is_infinite()
        if wrong.any():
            row = int(wrong.arg_max())  # type: ignore[arg-type]
            kind = f"one of {', '.join(words[:20])}" if words else f"a {column.kind}"
            where = f"in each row of column {name}, but row {first + row + 1:,}"
            hint = "" if words else "; data.missing lists words for no value, data.categories columns of text"
            raise file.error(f"{kind} {where} has {series.to_physical()[row]!r:.200}{hint}")
        numbers[:, place] = read.fill_null(float("nan")).to_torch()
    return numbers


def as_numbers(series: pl.Series, decimal: str = "point") -> pl.Series:
    """Return the values as Float64; null where one is missing or no number."""
    if series.dtype == pl.String and decimal == "comma":  # then a point is not part of a number
        series = series.str.replace(".", "?", literal=True).str.replace(",", ".", literal=True)
    if series.dtype.is_numeric() or series.dtype in (pl.String, pl.Boolean):
        return series.cast(pl.Float64, strict=False)
    return pl.repeat(None, len(series), dtype=pl.Float64, eager=True)


def as_seconds(series: pl.Series, dates: str) -> pl.Series:
    """Return seconds since 1970-01-01, Float64, of values as of `Format.dates`; null where one is no date."""
    seconds, forms = pl.repeat(None, len(series), dtype=pl.Float64, eager=True), []
    if series.dtype in (pl.Date, pl.Datetime):
        seconds = series.dt.epoch("us") / 1e6
    elif "%" in dates and (series.dtype == pl.String or series.dtype.is_integer()):  # such as 20200113
        series, forms = series.cast(pl.String), [dates]
    elif series.dtype == pl.String:
        day = r"^(\d{1,2})[./-](\d{1,2})[./-](\d{4})\b"
        series = series.str.replace(day, ORDERS[dates]) if dates in ORDERS else series
        series = series.str.replace(r"^(\d{4})[./-](\d{1,2})[./-](\d{1,2})[T ]?", "$1-$2-$3 ")
        series, forms = series.str.replace(r"\s*Z?$", ""), ISO
    for form in forms:
        read = series.str.to_datetime(form, time_unit="us", strict=False).dt.epoch("us") / 1e6
        seconds = seconds.zip_with(seconds.is_not_null(), read)
    return seconds.set(~seconds.is_between(*YEARS).fill_null(True), None)


def find_kind(values: pl.Series, format: Format, named: bool = False) -> Column:
    """Return the kind of a column by known values, or of names if `named`; a ValueError if it is unclear."""
    if not len(values):
        raise ValueError("no values")
    if named:
        return Column(values.name, "category")
    some = values.gather_every(len(values) // 1_000 + 1)  # a text of another kind is detected quickly
    numbers = Column(values.name, "number", decimal=format.decimal)
    dates, given = (Column(values.name, "date", dates=form) for form in ("auto", format.dates))
    # a format such as %Y%m%d also matches numbers
    for column in (given, Column(values.name, "boolean", words=TRUTHS), numbers, dates):
        if all(column.read(part).null_count() <= STRAY * len(part) for part in (some, values)):
            return column
    if values.dtype != pl.String:
        raise ValueError(f"of type {values.dtype}")
    if values.str.extract(UNREAD, 0).null_count() <= STRAY * len(values):
        ways = "data.decimal, data.dates or data.categories says what it is"
        raise ValueError(f"{values[0]!r} may be a number or a date: {ways}")
    return Column(values.name, "category")


def fit_column(values: pl.Series, format: Format, named: bool, most: int) -> Column:
    """Return the rule of a column by its training rows, with the `most` frequent words; see `find_kind`."""
    known = values.drop_nulls()
    column = replace(find_kind(known, format, named), flagged=values.has_nulls())
    read = as_words(known).alias("word") if column.kind == "category" else column.read(known)
    if column.kind == "number":
        large = known.filter(read.abs() > EXACT).cast(pl.String)
        if large.str.contains(r"^[+-]?\d+$").any():
            raise ValueError(f"{large[0]} looks like an id: put it into data.categories or data.exclude")
    if not column.flagged and read.n_unique() == 1:
        raise ValueError(f"{known[0]} in every row")
    if column.kind != "category":
        column.fill = read.median()  # type: ignore[assignment]
        return column
    counts = read.value_counts(name="rows").sort("rows", "word", descending=[True, False])
    if most < len(counts) and len(counts) > len(read) / 2:
        texts = f"{len(counts):,} different texts in {len(read):,} rows"
        raise ValueError(f"{texts}; data.missing lists words for no value")
    column.words = counts["word"][:most].to_list()
    return column
