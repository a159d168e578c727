"""How numbers, dates, true and false are written in text: what training rows tell holds ever after."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:  # half a second of import that only those who read files pay for
    import polars as pl

TRUTHS = ["false", "true"]  # in any case of letters
SHARE = 0.9  # of the values that must be of a form, for the column to be taken for it; the others are told
LOOKED_AT = 1_000  # values, spread over the training rows, that a form is told from
SIGNS = r"\p{Sc}|%|\b(?:USD|EUR|GBP|CHF|JPY|KRW|CNY|INR)\b"  # of currencies, and per cent
GROUPS = {".": r"[,'’\s]", ",": r"[.'’\s]"}  # what may stand between thousands, by the decimal mark
YEAR_FIRST = ["%Y/%m/%d", "%Y.%m.%d", "%Y%m%d"]
NAMED_MONTH = ["%B %d %Y", "%B %d, %Y", "%d %B %Y", "%d-%B-%Y", "%d-%B-%y"]  # %B takes Jun and June
DAY_FIRST = ["%d/%m/%Y", "%d.%m.%Y", "%d-%m-%Y", "%d/%m/%y", "%d.%m.%y", "%d-%m-%y"]
MONTH_FIRST = ["%m/%d/%Y", "%m.%d.%Y", "%m-%d-%Y", "%m/%d/%y", "%m.%d.%y", "%m-%d-%y"]
TIMES = ["", " %H:%M", " %H:%M:%S%.f", " %I:%M %p", " %I:%M:%S %p"]


class Unusable(ValueError):
    """A column that nothing can be learned from: the message says why, and where it can, what to do."""


def as_words(series: pl.Series) -> pl.Series:
    """Return values as the names that they are: 1, +1, 1.0 and "1,0" are all "1", for files differ in it."""
    import polars as pl

    return series.cast(pl.String).str.replace(r"^\+?(-?\d+)(?:\.0+|,0)?$", "$1")


def as_numbers(series: pl.Series, decimal: str = ".", sign: str = "") -> pl.Series:
    """Return the values as Float64; null where one is missing or no number.

    Args:
        series: of any type.
        decimal: the mark of decimals in text, "." or ","; or "" for "." without marks between thousands.
        sign: what may stand before or behind a number in text, such as "$" or "%".
    """
    import polars as pl

    if series.dtype == pl.Duration:
        return series.dt.total_microseconds() / 1e6
    if series.dtype != pl.String:
        if series.dtype.is_numeric() or series.dtype in (pl.Boolean, pl.Null):
            return series.cast(pl.Float64)
        return pl.Series(series.name, [None] * len(series), pl.Float64)
    if decimal != "," and not sign:
        numbers = series.cast(pl.Float64, strict=False)
        if decimal == "" or numbers.null_count() == series.null_count():
            return numbers
    if sign:
        bare = series.str.replace(sign, "", literal=True).str.strip_chars()
        series = bare.str.replace(r"^([+-])\s+", "$1")
    mark = rf"\{decimal}"
    grouped = series.str.contains(rf"^[+-]?[1-9]\d{{0,2}}(?:{GROUPS[decimal]}\d{{3}})+(?:{mark}\d*)?$")
    series = series.zip_with(~grouped.fill_null(False), series.str.replace_all(GROUPS[decimal], ""))
    if decimal == ",":
        series = series.set(series.str.contains(".", literal=True).fill_null(False), None)
        series = series.str.replace(",", ".", literal=True)
    return series.cast(pl.Float64, strict=False)


def as_days(series: pl.Series, form: str = "iso") -> pl.Series:
    """Return days since 1970-01-01, Float64; null where a value is missing or no date.

    Args:
        series: of any type.
        form: of dates in text, "iso" or as of `strptime`.
    """
    import polars as pl

    if form == "%Y%m%d" and series.dtype.is_numeric():
        series = as_words(series)
    if series.dtype == pl.String:
        if form == "iso":
            return as_iso_days(series)
        if form == "%Y%m%d":  # polars takes fewer digits, too
            series = series.set(~series.str.contains(r"^\d{8}$").fill_null(True), None)
        if "%H" not in form and "%I" not in form:
            dates = series.str.to_date(form, strict=False)
        else:
            dates = series.str.to_datetime(form, strict=False, time_unit="ms")
        series = dates.set((dates.dt.year() < 1000).fill_null(False), None)  # "20" is no year of "%Y"
    if not series.dtype.is_temporal() or series.dtype in (pl.Duration, pl.Time):
        return pl.Series(series.name, [None] * len(series), pl.Float64)
    return series.dt.epoch("ms") / 86_400_000


def as_iso_days(text: pl.Series) -> pl.Series:
    """Return the days of 2020-01-31, with or without a time of day and a distance from UTC behind it."""
    import polars as pl

    text = text.str.replace(r"^(\d{4}-\d{1,2}-\d{1,2})T", "$1 ").str.replace(r"\s*Z$", "")
    days = text.str.to_date("%Y-%m-%d", strict=False).dt.epoch("ms") / 86_400_000
    for form in (" %H:%M:%S%.f", " %H:%M", " %H:%M:%S%.f%#z"):
        left = days.is_null() & text.is_not_null()
        if not left.any():
            break
        zone = "UTC" if "z" in form else None
        kind = pl.Datetime("ms", zone)
        rest = text.set(~left, None).str.strptime(kind, f"%Y-%m-%d{form}", strict=False)
        days = days.zip_with(~left, rest.dt.epoch("ms") / 86_400_000)
    return days.cast(pl.Float64)


def as_truths(series: pl.Series) -> pl.Series:
    """Return true and false as 1 and 0, Float64, and other values as numbers."""
    import polars as pl

    if series.dtype == pl.String:
        series = series.str.to_lowercase().replace(TRUTHS, ["0", "1"])
    return as_numbers(series)


def spread(values: pl.Series) -> pl.Series:
    """Return at most `LOOKED_AT` values, evenly from the first to the last."""
    return values.gather_every(max(1, -(-len(values) // LOOKED_AT)))


def share_of(read: pl.Series) -> float:
    """Return the share of the values that could be read."""
    return 1 - read.null_count() / max(1, len(read))


def find_sign(values: pl.Series) -> str:
    """Return the one currency, or %, that stands in texts; "" where there is none, or more than one."""
    found = values.str.extract(SIGNS, 0).drop_nulls().unique()
    return str(found[0]) if len(found) == 1 else ""


def find_marks(values: pl.Series, sign: str) -> str:
    """Return the decimal marks with which texts are numbers: ".", ",", ".," where both will do, or "".

    Where both give the same numbers there is no doubt, and "." is returned.
    """
    point, comma = (as_numbers(values, decimal, sign) for decimal in (".", ","))
    marks = "".join(m for m, read in ((".", point), (",", comma)) if share_of(read) >= SHARE)
    return "=" if marks == ".," and point.equals(comma) else marks


def settle_mark(values: pl.Series, others: set[str], decimal: str, separator: str) -> str:
    """Return the decimal mark of texts such as "1,234" or "1.234", which are numbers with either mark.

    Args:
        values: the texts.
        others: decimal marks of which other columns of the file leave no doubt.
        decimal: what a person said: "point", "comma" or "auto".
        separator: of the file. Where it is a comma, it is no decimal mark.

    Raises:
        Unusable: nothing of that says which.
    """
    if decimal != "auto":
        return "." if decimal == "point" else ","
    if len(others) == 1:
        return next(iter(others))
    if not others and (separator == "," or not values.str.contains(",", literal=True).any()):
        return "."
    some = values.filter(values.str.contains(r"[.,]"))[0]
    raise Unusable(f"{some!r} may be more or less than 1,000; say data.decimal=point or data.decimal=comma")


def are_compact_dates(values: pl.Series) -> bool:
    """Whether whole numbers are all dates such as 20200113, of three days or more from 1900 to 2100."""
    import polars as pl

    if not (values.dtype == pl.String or values.dtype.is_integer()) or values.n_unique() < 3:
        return False
    days = as_days(values, "%Y%m%d")
    return not days.has_nulls() and bool(days.is_between(-25_567, 47_846).all())


def find_dates(values: pl.Series, dates: str) -> str:
    """Return how dates in texts are written, as of `as_days`; "" where they are none.

    Args:
        values: the texts.
        dates: what a person said: a form of `strptime`, "day_first", "month_first" or "auto".

    Raises:
        Unusable: day and month may be either way round.
    """
    if "%" in dates:
        return dates if share_of(as_days(values, dates)) >= SHARE else ""
    if share_of(values.str.extract(r"(^\D{0,10}\d{1,8}\D.{0,40}$|^\d{8}$)", 0)) < SHARE:
        return ""
    doubtful = {"day_first": DAY_FIRST, "month_first": MONTH_FIRST}.get(dates, DAY_FIRST + MONTH_FIRST)
    forms = ["iso", *(date + time for date in (*YEAR_FIRST, *NAMED_MONTH, *doubtful) for time in TIMES)]
    some = spread(values)
    read = {form: as_days(values, form) for form in forms if share_of(as_days(some, form)) >= SHARE}
    best = max(map(share_of, read.values()), default=0.0)
    fitting = [form for form, days in read.items() if share_of(days) == best >= SHARE]
    if any(not read[form].equals(read[fitting[0]]) for form in fitting):
        order = "data.dates=day_first or data.dates=month_first"
        raise Unusable(f"{values[0]!r} may begin with the day or the month; say {order}")
    return fitting[0] if fitting else ""
