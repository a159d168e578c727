"""A table as samples: its targets, the rows of each split, and the columns to learn from."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Literal
from unicodedata import normalize

import polars as pl
import torch
from torch import Tensor
from tqdm import tqdm

from descent.data.named_path import NamedPath
from descent.data.samples import Samples
from descent.errors import ConfigError, clean, require, require_one_of
from descent.table.files import Format, as_words, read_blocks
from descent.table.reader import Column, TableReader, as_numbers

CLASSES = 10_000  # at most
FEW = 20  # whole numbers are classes if there are at most this many different ones
SHOWN = 10  # classes or categories that the preview shows
SPLITS = {"train": 0, "training": 0, "val": 1, "valid": 1, "validation": 1, "test": 2}
STRAY = 0.1  # share of values that may be of another kind than the column's; they are reported as errors
EXACT = 1 << 53  # whole numbers beyond this lose digits in float64
# numbers such as $1,234.50 or 5 %, and dates such as 31.12.2020 10:00, 12 Jun 1998 or June 12, 1998
UNREAD = (
    r"^([+-]?\p{Sc}?\s?\d[\d.,'\s]*[\p{Sc}%]?|\d{1,4}([./ -])(\d{1,2}|\p{L}{3,9})[./ -]\d{1,4}([ T]\d.*)?"
    r"|\p{L}{3,9}\.? \d{1,2},? \d{4}.*)$"
)


def table(
    path: str | None,
    target: str | list[str] | None,
    task: Literal["auto", "classes", "values", "labels"],
    columns: list[str] | None,
    exclude: list[str],
    categories: list[str],
    max_categories: int,
    split: str | None,
    val_path: str | None,
    test_path: str | None,
    format: Callable[..., Format],
    **text: Any,
) -> Samples:
    """Return the rows of a file that have a target, as conf/data/table.yaml explains; or a ConfigError."""
    require(bool(path), "path", path, "a CSV or Parquet file, such as data.path=houses.csv")
    require(max_categories >= 1, "max_categories", max_categories, "a whole number of at least 1")
    written, paths = format(**text), {"path": path, "val_path": val_path, "test_path": test_path}
    files = [NamedPath(key, name) for key, name in paths.items() if name]
    parts = [(read_all(file, written), file) for file in files]
    frame, file = parts[0]
    expected = f"one of the columns {', '.join(frame.columns)[:2000]}".replace("\n", " ")
    expected += "; data.separator sets the character between columns" if frame.width == 1 else ""
    require(bool(target), "target", None, expected)
    targets = [target] if isinstance(target, str) else target or []
    named = {"target": targets, "columns": columns or [], "exclude": exclude, "categories": categories}
    named["split"] = [split] if split else []
    for key, names in named.items():
        named[key] = [normalize("NFC", str(name)) for name in names]
        for name in named[key]:
            require_one_of(frame.columns, key, name, expected)
    goals = find_goals(frame, named["target"], task, written)
    passed = named["target"] + named["exclude"] + named["split"]
    kinds = dict.fromkeys(named["categories"], "category")
    learned = [Column(n, kinds.get(n, "")) for n in named["columns"] or frame.columns if n not in passed]
    reader = TableReader(str(Path(file.path).expanduser().resolve()), written, goals, learned)
    values, known = map(torch.cat, zip(*(reader.take_targets(*part) for part in parts), strict=True))
    splits = [torch.full((len(part),), list(paths).index(file.key)) for part, file in parts]
    for name in named["split"]:
        words = frame[name].cast(pl.String).str.to_lowercase().fill_null("")
        wrong = sorted({*words} - {*SPLITS})
        require(not wrong, "split", name, f"{', '.join(SPLITS)} in each row, not {wrong[:1]!s:.200}")
        splits[0] = torch.tensor([SPLITS[word] for word in words])
    place = torch.where(known, torch.cat(splits), -1)
    rows = {name: (place == SPLITS[name]).nonzero().flatten() for name in ("train", "val", "test")}
    require(len(rows["train"]) > 0, "target", target, "rows to train on, but none has a target")
    fit = partial(fit_table, parts, reader, max_categories)
    names = goals[0].words if goals[0].kind == "class" else reader.targets
    # the inputs are filled by `fit`, once the training rows are known
    return Samples(torch.empty(len(values), 0), values, names, rows, fit=fit)


def read_all(file: NamedPath, format: Format) -> pl.DataFrame:
    """Return all rows of a file; on a terminal, a bar counts them if that takes a while."""
    blocks = []
    with tqdm(desc="Reading", unit=" rows", unit_scale=True, delay=2, leave=False, disable=None) as bar:
        for _, rows in read_blocks(file, format):
            blocks.append(rows)
            bar.update(len(rows))
    return pl.concat(blocks)


def find_goals(frame: pl.DataFrame, targets: Sequence[str], task: str, format: Format) -> list[Column]:
    """Return the rules of the targets: one of classes, or numbers."""
    for name in targets:
        known = frame[name].drop_nulls()
        try:
            goal = fit_column(known, format, task == "classes", CLASSES)
        except ValueError as error:
            raise ConfigError("target", name, expected=f"values to learn ({error})") from error
    numbers = goal.read(known)
    few = goal.kind == "number" and numbers.n_unique() <= FEW and (numbers % 1 == 0).all()
    if len(targets) > 1 or task not in ("auto", "classes") or not (few or goal.kind == "category"):
        return [Column(name, "number", form=format.decimal) for name in targets]
    words = as_words(known).unique().sort()
    if not as_numbers(words).has_nulls():
        words = words.gather(as_numbers(words).arg_sort())
    return [Column(targets[0], "class", words=words.to_list())]


def fit_column(values: pl.Series, format: Format, named: bool, most: int) -> Column:
    """Return the rule of a column by its training rows, or a ValueError that says why there is none.

    Values that are `named` are categories, whatever they look like; the `most` frequent ones are kept.
    """
    known = values.drop_nulls()
    if not len(known):
        raise ValueError("no values")
    some = known.gather_every(len(known) // 1_000 + 1)  # a text of another kind is detected quickly
    kinds = [
        Column(values.name, "date", form=format.dates),  # first, because %Y%m%d also matches numbers
        Column(values.name, "date"),
        Column(values.name, "number", form=format.decimal),
    ]
    for column in kinds if not named else ():
        if all(column.read(part).null_count() <= STRAY * len(part) for part in (some, known)):
            break
    else:
        column = Column(values.name, "category")
    if column.kind == "category" and not named:
        if known.dtype != pl.String:
            raise ValueError(f"of type {known.dtype}")
        if known.str.contains(UNREAD).sum() >= (1 - STRAY) * len(known):
            ways = "data.decimal, data.dates or data.categories decides"
            raise ValueError(f"{known[0]!r} may be a number or a date: {ways}")
    column.flagged = values.has_nulls()
    read = as_words(known).alias("word") if column.kind == "category" else column.read(known)
    if column.kind == "number":
        large = as_words(known.filter(read.abs() > EXACT))
        if large.str.contains(r"^-?\d+$").any():
            raise ValueError(f"{large[0]} looks like an id: put it into data.categories or data.exclude")
    if not column.flagged and read.n_unique() == 1:
        raise ValueError(f"{known[0]} in every row")
    if column.kind != "category":
        column.fill = read.median()  # type: ignore[assignment]
        return column
    counts = read.value_counts(name="rows").sort("rows", "word", descending=[True, False])
    if most < len(counts) and len(counts) > len(read) / 2:
        texts = f"{len(counts):,} different texts in {len(read):,} rows"
        raise ValueError(f"{texts}; data.missing lists marks of missing values")
    column.words = counts["word"][:most].to_list()
    return column


def fit_table(
    parts: Sequence[tuple[pl.DataFrame, NamedPath]],
    reader: TableReader,
    most: int,
    samples: Samples,
    rows: Mapping[str, Tensor],
    like: Mapping[str, Any] | None = None,
) -> Samples:
    """Return the samples with inputs, by rules from the training rows or by those of another run.

    `parts` are the rows and names of the files; `reader` contains the columns to learn from, of no kind yet.
    """
    (frame, file), names, columns, left_out = parts[0], list(samples.names), [], {}
    train = frame[rows["train"].numpy()]
    if like is not None and like["reader"]["kind"] == "table":
        columns, start = TableReader.from_description(like["reader"]).columns, f"init_from={like['run']}"
        used, known = ([column.name for column in part] for part in (reader.columns, columns))
        if gaps := ", ".join(name for name in known if name not in used):
            raise file.error(f"the columns that {start} learned from; not learned from here: {gaps}")
        left_out = {name: f"{start} did not learn from it" for name in used if name not in known}
    else:
        for column in reader.columns:
            try:
                columns.append(fit_column(train[column.name], reader.format, column.kind == "category", most))
            except ValueError as error:
                left_out[column.name] = str(error)
    if not columns:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in left_out.items())[:1000] or "none"
        raise file.error(f"a column to learn from besides {', '.join(reader.targets)}; left out: {reasons}")
    goals = [replace(goal, words=names) for goal in reader.goals if goal.kind == "class"]
    goals = goals or sorted(reader.goals, key=lambda goal: names.index(goal.name))
    reader = replace(reader, goals=goals, columns=columns)
    inputs = torch.cat([reader.take(*part) for part in parts])
    plain = all(column.kind == "number" and not column.flagged for column in columns)
    encoder = None if plain and not inputs.isnan().any() else reader.encoder()
    gap = len(inputs) - sum(map(len, rows.values()))
    sizes = ", ".join(f"{len(part):,} {name}" for name, part in rows.items())
    lines = [
        f"{file.path}: {len(frame):,} rows, {frame.width} columns",
        f"  split     {sizes}" + (f"; left out, without a target: {gap:,}" if gap else ""),
        *(describe("target", goal, train[goal.name]) for goal in goals),
        *(describe(column.kind, column, train[column.name]) for column in columns),
        *(f"  left out  {name:<20} {reason}" for name, reason in left_out.items()),
    ]
    preview = "".join(clean(line).replace("\n", " ") + "\n" for line in lines)
    return replace(samples, inputs=inputs, encoder=encoder, reader=asdict(reader), preview=preview)


def describe(head: str, column: Column, values: pl.Series) -> str:
    """Return a line on a column: the rows of each word, or the range of known values; and what is missing."""

    def show(value: Any) -> str:
        return f"{datetime.fromtimestamp(value, UTC):%Y-%m-%d}" if column.kind == "date" else f"{value:,.10g}"

    words, known, filled = column.words, column.read(values).drop_nulls(), ""
    if words:
        counts = dict(as_words(values.drop_nulls()).alias("word").value_counts().iter_rows())
        shown = ", ".join(f"{word} {counts.pop(word, 0):,}" for word in words[:SHOWN])
        text = f"{len(words)} words: {shown}" + (f", others {sum(counts.values()):,}" if counts else "")
    elif len(known):
        text = f"from {show(known.min())} to {show(known.max())}"
        filled = f", taken as {show(column.fill)}"
    else:
        text = "no values"
    gaps = values.null_count()
    return f"  {head:<9} {column.name:<20} {text}" + (f"; {gaps:,} missing{filled}" if gaps else "")
