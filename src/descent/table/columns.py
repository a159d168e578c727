"""Columns of a table as numbers, by rules from the training rows that are the run's schema ever after."""

from dataclasses import dataclass, field, replace

import polars as pl
from torch import Tensor

from descent.data.named_path import NamedPath
from descent.table.files import ORDERS, Format, as_words

TRUTHS = ["false", "true"]  # in any case of letters
SHARE = 0.9  # of the values that are of a kind, for the column to be of it; the others are errors
EXACT = 1 << 53  # whole numbers beyond lose digits in float64
YEARS = (-30_610_224_000.0, 253_402_300_799.0)  # 1000 to 9999, in seconds; "20" is no year of "%Y"
ISO = ["%Y-%m-%d", "%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%d %H:%M", "%Y-%m-%d %H:%M:%S%.f%#z"]
DAY, MONTH = r"\d{1,4}", r"\p{L}{3,9}\.?"
HINTS = {
    rf"^({DAY}[./-] ?{DAY}[./-] ?{DAY}|{DAY}[ -]{MONTH}[ -]{DAY}|{MONTH} {DAY},? {DAY})([ T]\d.*)?$": (
        "date: data.dates=day_first, month_first or a form such as %d.%m.%Y reads it"
    ),
    r"^[(+-]?\s*(\p{Sc}|[A-Z]{3})?\s*[+-]?(\d[\d.,'’\s]*|[.,]\d+)\s*(\p{Sc}|[A-Z]{3}|%)?\)?$": (
        "number: data.decimal=comma reads 1,5; else write it as 1234.5, or name the column in data.categories"
    ),
}


class Unusable(ValueError):
    """A column that nothing can be learned from: the message says why, and where it can, what to do."""


@dataclass
class Column:
    """How one column of a file becomes one number a row.

    Attributes:
        name: in the file's header.
        kind: "number", less `origin`; "boolean", 0 or 1; "date", seconds since 1970-01-01; each NaN where it
            is missing. "category", the place in `words`; len(words) where it is missing, -1 where training
            never saw it. "class", of a target, the place in `words`; NaN where it is missing.
        fill: what stands for a missing number or date: the median of the training rows.
        flagged: values were missing in the training rows too, so that a feature of its own says where.
        words: the categories of the training rows, the most frequent first; or the classes.
        decimal, dates: how it is written in text, as of `Format`.
        origin: of whole numbers that float64 cannot hold, such as ids of 64 bits: the smallest one.
    """

    name: str
    kind: str
    fill: float = 0.0
    flagged: bool = False
    words: list[str] = field(default_factory=list)
    decimal: str = "point"
    dates: str = "auto"
    origin: int = 0

    def to_numbers(self, series: pl.Series, file: NamedPath, first: int = 0) -> Tensor:
        """Return one number a row, float64 `(rows,)`, of a column of a file after its `first` rows.

        Raises:
            ConfigError: a value of another kind than the column's, naming row and value.
        """
        numbers = self.read(series)
        if self.kind == "category":
            missing = pl.Series([float(len(self.words))])
            return (
                numbers.fill_null(-1.0)
                .zip_with(series.is_not_null() | (not self.flagged), missing)
                .to_torch()
            )
        wrong = (numbers.is_null() & series.is_not_null()) | numbers.is_infinite()
        if wrong.any():
            row = int(wrong.arg_max())  # type: ignore[arg-type]
            kinds = {"boolean": "true or false", "class": "one of the classes " + ", ".join(self.words[:20])}
            value = series.to_physical()[row] if self.kind == "date" else series[row]  # it may be no date
            where = f"in each row of column {self.name}, but row {first + row + 1:,} has {value!r}"
            raise file.error(f"{kinds.get(self.kind, f'a {self.kind}')} {where}")
        return numbers.fill_null(float("nan")).to_torch()

    def read(self, series: pl.Series) -> pl.Series:
        """Return the numbers, Float64; null where a value is missing, of another kind, or an unknown word."""
        if self.words:
            text, words = as_words(series), self.words
            if sorted(word.lower() for word in words) == TRUTHS:  # True here may be true there
                text, words = text.str.to_lowercase(), [word.lower() for word in words]
            return text.cast(pl.Enum(words), strict=False).to_physical().cast(pl.Float64)
        if self.kind == "date":
            return as_seconds(series, self.dates)
        if self.kind == "boolean" and series.dtype == pl.String:
            series = series.str.to_lowercase().replace(TRUTHS, ["0", "1"])
        numbers = as_numbers(series, self.decimal)
        if self.kind == "boolean":
            return numbers.set(~numbers.is_in([0.0, 1.0]).fill_null(True), None)
        if self.origin:
            whole = series.cast(pl.Int128, strict=False) - pl.Series([self.origin], dtype=pl.Int128)
            return whole.cast(pl.Float64).zip_with(whole.is_not_null(), numbers - self.origin)
        return numbers

    def holds(self, values: pl.Series) -> bool:
        """Whether known values are of this kind, but for a few."""
        some = values.gather_every(len(values) // 1_000 + 1)  # a text of another kind is seen quickly
        return share_of(self.read(some)) >= SHARE <= share_of(self.read(values))


def as_numbers(series: pl.Series, decimal: str = "point") -> pl.Series:
    """Return the values as Float64; null where one is missing or no number."""
    if series.dtype == pl.String and decimal == "comma":  # a point is no part of a number then
        series = series.str.replace(".", "?", literal=True).str.replace(",", ".", literal=True)
    if series.dtype.is_numeric() or series.dtype in (pl.String, pl.Boolean, pl.Null):
        return series.cast(pl.Float64, strict=False)
    return pl.Series(series.name, [None] * len(series), pl.Float64)


def as_seconds(series: pl.Series, dates: str) -> pl.Series:
    """Return seconds since 1970-01-01, Float64, of values as of `Format.dates`; null where one is no date."""
    if "%" in dates and series.dtype.is_integer():  # 20200113
        series = series.cast(pl.String)
    seconds, forms = pl.Series(series.name, [None] * len(series), pl.Float64), [dates]
    if series.dtype in (pl.Date, pl.Datetime):
        seconds, forms = series.dt.epoch("us") / 1e6, []
    elif series.dtype != pl.String:
        forms = []
    elif "%" not in dates:
        day = r"^(\d{1,2})[./-] ?(\d{1,2})[./-] ?(\d{4})\b"
        series = series.str.replace(day, ORDERS[dates]) if dates in ORDERS else series
        series = series.str.replace(r"^(\d{4})[./-](\d{1,2})[./-](\d{1,2})[T ]?", "$1-$2-$3 ")
        series, forms = series.str.replace(r"\s*Z?$", ""), ISO
    for form in forms:
        left = series.set(seconds.is_not_null(), None)
        if left.null_count() < len(left):
            kind = pl.Datetime("us", "UTC" if form.endswith("z") else None)
            read = left.str.strptime(kind, form, strict=False).dt.epoch("us") / 1e6
            seconds = seconds.zip_with(read.is_null(), read)
    return seconds.set(~seconds.is_between(*YEARS).fill_null(True), None)


def share_of(read: pl.Series) -> float:
    """Return the share of the values that are not null."""
    return 1 - read.null_count() / max(1, len(read))


def find_kind(values: pl.Series, format: Format, named: bool = False) -> Column:
    """Return the kind of a column by known values; those that are `named` are names, whatever they look like.

    Raises:
        Unusable: they are of no kind, or may be numbers or dates in a form that is not read.
    """
    if not len(values):
        raise Unusable("no values")
    if named:
        return Column(values.name, "category")
    # a form such as %Y%m%d is that of numbers, too
    tries = [("date", format.dates), ("number", "auto"), ("boolean", "auto"), ("date", "auto")]
    for kind, dates in tries:
        column = Column(values.name, kind, decimal=format.decimal, dates=dates)
        if column.holds(values) and (kind, values.dtype) != ("number", pl.Boolean):
            return column
    if values.dtype != pl.String:
        raise Unusable(f"of type {values.dtype}")
    for pattern, hint in HINTS.items():
        if share_of(values.str.extract(pattern, 0)) >= SHARE:
            raise Unusable(f"{values[0]!r} may be a {hint}")
    return Column(values.name, "category")


def fit_column(values: pl.Series, format: Format, named: bool, most: int) -> Column:
    """Return the rule of a column by its training rows, with the `most` frequent words; see `find_kind`."""
    known = values.drop_nulls()
    column = replace(find_kind(known, format, named), flagged=values.has_nulls())
    read = as_words(known).alias("word") if column.kind == "category" else column.read(known)
    if column.kind == "number" and bool((read.abs() > EXACT).any()):
        column.origin = known.cast(pl.Int128, strict=False).min() or 0  # type: ignore[assignment]
        read = column.read(known)
    if not (column.flagged or read.has_nulls()) and read.min() == read.max():
        raise Unusable(f"{known[0]} in every row")
    if column.kind != "category":
        column.fill = read.median()  # type: ignore[assignment]
        return column
    counts = read.value_counts(name="rows").sort("rows", "word", descending=[True, False])
    if most < len(counts) and len(counts) > len(read) / 2:
        reason, numbers = f"{len(counts):,} different texts in {len(read):,} rows", as_numbers(read)
        if share_of(numbers) > 0.5:
            reason += f", such as {read.filter(numbers.is_null())[0]!r}; data.missing has words for no value"
        raise Unusable(reason)
    column.words = counts["word"][:most].to_list()
    return column
