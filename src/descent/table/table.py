"""A table as samples: what is predicted, which rows are given to which split, and what is learned from."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, Literal
from unicodedata import normalize

import polars as pl
import torch
from torch import Tensor

from descent.data.named_path import NamedPath
from descent.data.samples import Samples
from descent.errors import ConfigError, require, require_one_of
from descent.table.columns import ORDERS, TRUTHS, Column, Kind, Unusable, as_numbers, find_kind, fit_column
from descent.table.files import Format, as_words, read_blocks
from descent.table.reader import TableReader

FEW = 20  # whole numbers are classes where there are at most this many different ones
SHOWN = 10  # classes whose number of rows the preview shows
SPLITS = {"train": 0, "training": 0, "val": 1, "valid": 1, "validation": 1, "test": 2}


def table(
    path: str | None,
    target: str | list[str] | None,
    task: Literal["auto", "classes", "values", "labels"],
    columns: list[str] | None,
    exclude: list[str],
    categories: list[str],
    missing: list[str],
    max_categories: int,
    decimal: Literal["point", "comma"],
    dates: str,
    encoding: str,
    separator: str | None,
    split: str | None,
    val_path: str | None,
    test_path: str | None,
) -> Samples:
    """Return the rows of a CSV or Parquet file, one number a column (see `descent.table.columns`).

    Rows without a target are left out. Missing values and categories are understood by the training rows alone.
    `preview` says what was understood. conf/data/table.yaml has a line on each argument.

    Raises:
        ConfigError: a file or column that is not there, a file without rows, text among numbers, or a target
            with one value only.
    """
    require(bool(path), "path", path, "a CSV or Parquet file, such as data.path=houses.csv")
    require(max_categories >= 1, "max_categories", max_categories, "a whole number of at least 1")
    format = choose_format(missing, encoding, separator, decimal, dates)
    given = {"path": path, "val_path": val_path, "test_path": test_path}
    files = [NamedPath(key, file) for key, file in given.items() if file]
    frames = [pl.concat(list(read_blocks(file, format)), rechunk=False) for file in files]
    named = {
        "target": [target] if isinstance(target, str) else target,
        "columns": columns,
        "exclude": exclude,
    }
    named |= {"categories": categories, "split": [split] if split else []}
    found = {key: find_names(key, names or (), frames[0].columns) for key, names in named.items()}
    if not found["target"]:
        raise ConfigError("target", None, expected=f"one of the columns {', '.join(frames[0].columns)}")
    goals = find_goals(frames[0], found["target"], task, format)
    passed = {*found["target"], *found["exclude"], *found["split"]}
    used = [n for n in (frames[0].columns if columns is None else found["columns"]) if n not in passed]
    reader = TableReader(str(Path(files[0].path).expanduser().resolve()), goals, format, [])
    targets = torch.cat([reader.take_targets(*pair) for pair in zip(frames, files, strict=True)])
    known = targets >= 0 if goals[0].kind == "class" else ~targets.isnan().any(1)
    part_of = torch.cat(
        [torch.full((len(f),), list(given).index(n.key)) for f, n in zip(frames, files, strict=True)]
    )
    for name in found["split"]:
        part_of[: len(frames[0])] = read_split(frames[0][name])
    rows = {n: (known & (part_of == SPLITS[n])).nonzero().flatten() for n in ("train", "val", "test")}
    require(len(rows["train"]) > 0, "target", target, "rows to train on, but none has a target")
    for goal, values in zip(goals, targets.reshape(len(targets), -1)[known].T, strict=True):
        constant = goal.kind == "number" and bool((values == values[0]).all())
        require(not constant, "target", goal.name, f"different values, but every row has {values[0]:g}")
    fit = partial(fit_table, files, frames, reader, used, found["categories"], max_categories)
    inputs = torch.empty(len(targets), 0)  # filled by `fit`, when the training rows are known
    return Samples(inputs, targets, goals[0].words or found["target"], rows, fit=fit)


def fit_table(
    files: Sequence[NamedPath],
    frames: Sequence[pl.DataFrame],
    reader: TableReader,
    used: Sequence[str],
    categories: Sequence[str],
    max_categories: int,
    samples: Samples,
    rows: Mapping[str, Tensor],
    like: Mapping[str, Any] | None = None,
) -> Samples:
    """Return the samples with inputs by rules from the training rows, or by those of another run.

    Args:
        files, frames: the first one, which rules are fitted on, and those of validation and test.
        reader: with the targets' rules; it gets those of the columns.
        used: the columns to learn from; others are those of `table`.
        samples, rows, like: see `Samples.fit`.
    """
    train, left_out = rows["train"], {}
    if like is not None and like["reader"]["kind"] == "table":
        reader.columns = TableReader.from_description(like["reader"]).columns
        known, start = [column.name for column in reader.columns], f"init_from={like['run']}"
        if gaps := ", ".join(name for name in known if name not in used):
            raise files[0].error(f"the columns that {start} learned from; not learned from here: {gaps}")
        left_out = {name: f"{start} did not learn from it" for name in used if name not in known}
    else:
        reader.columns = []
        for name in used:
            try:
                values, named = frames[0][name].gather(train.numpy()), name in categories
                reader.columns.append(fit_column(values, reader.format, named, max_categories))
            except Unusable as error:
                left_out[name] = str(error)
    if not reader.columns:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in list(left_out.items())[:5])
        because = f"; left out are {reasons}" if reasons else ""
        raise files[0].error(f"a column to learn from beside {', '.join(reader.targets)}{because}")
    try:
        inputs = torch.cat([reader.take(*pair) for pair in zip(frames, files, strict=True)])
    except ConfigError as error:
        error.expected += "; add it to data.missing, or the column to data.categories if it is text"
        raise
    # classes and targets are in the order of another run's, where this one starts from it
    names, goals = list(samples.names), reader.goals
    goals = (
        [replace(goals[0], words=names)]
        if goals[0].words
        else sorted(goals, key=lambda g: names.index(g.name))
    )
    reader = TableReader(reader.path, goals, reader.format, reader.columns)
    sizes = ", ".join(f"{len(part):,} {name}" for name, part in rows.items())
    gaps = len(inputs) - sum(map(len, rows.values()))
    lines = [
        f"{files[0].path}: {len(frames[0]):,} rows, {frames[0].width} columns",
        f"  split     {sizes}" + (f"; left out, without a target: {gaps:,}" if gaps else ""),
    ]
    for goal, values in zip(goals, samples.targets[train].reshape(len(train), -1).T, strict=True):
        lines.append(describe("target", goal, values))
    lines += [describe(c.kind, c, values) for c, values in zip(reader.columns, inputs[train].T, strict=True)]
    lines += [f"  left out  {name:<20} {reason}" for name, reason in left_out.items()]
    plain = all(c.kind in ("number", "boolean") and not c.flagged for c in reader.columns)
    encoder = None if plain and not inputs.isnan().any() else reader.encoder()
    scaled = None if encoder is None else encoder.scaled
    # a name or a word may go on in a second line
    preview = "".join(line.replace("\n", " ") + "\n" for line in lines)
    return replace(
        samples, inputs=inputs, encoder=encoder, scaled=scaled, reader=reader.describe(), preview=preview
    )


def choose_format(
    missing: Sequence[str], encoding: str, separator: str | None, decimal: str, dates: str
) -> Format:
    """Return how files are written, or raise a `ConfigError`; arguments are those of `table`."""
    require_one_of(("point", "comma"), "decimal", decimal)
    if "%" not in dates:
        require_one_of(("auto", *ORDERS), "dates", dates, f"auto, {', '.join(ORDERS)}, or such as %d.%m.%Y")
    encoding = "utf-8" if encoding == "auto" else encoding
    try:
        "".encode(encoding)
    except LookupError as error:
        known = "auto, or an encoding that Python knows, such as latin-1, utf-16 or cp949"
        raise ConfigError("encoding", encoding, expected=known) from error
    separator = (separator or "").replace("\\t", "\t")
    fits = len(separator.encode()) < 2 and separator not in ('"', "\n")
    require(fits, "separator", separator, "null, or one character such as ; or \\t")
    return Format([str(word) for word in missing], encoding, separator, decimal, dates)


def find_names(key: str, names: Sequence[str], columns: Sequence[str]) -> list[str]:
    """Return names of columns as the file has them; raise a `ConfigError` of the first that it has not."""
    expected = f"one of the columns {', '.join(columns)}"
    expected += "; data.separator is what stands between columns" if len(columns) == 1 else ""
    names = [normalize("NFC", str(name)) for name in names]
    for name in names:
        require_one_of(columns, key, name, expected)
    return names


def find_goals(frame: pl.DataFrame, targets: Sequence[str], task: str, format: Format) -> list[Column]:
    """Return the rules of the targets: one of classes, or numbers, or booleans; see `table`."""
    goals = []
    for name in targets:
        try:
            goals.append(find_kind(frame[name].drop_nulls(), format))
        except Unusable as error:
            if task != "classes":
                raise ConfigError("target", name, expected=f"values that can be read; {error}") from error
            goals.append(Column(name, "category"))
    if (
        task == "auto"
        and len(goals) > 1
        and all(Column(g.name, "boolean").holds(frame[g.name].drop_nulls()) for g in goals)
    ):
        expected = "data.task=labels or data.task=values, because these targets are 0 and 1 alone"
        raise ConfigError("data.task", task, expected=expected)
    goal, values = goals[0], goals[0].read(frame[goals[0].name]).drop_nulls().unique()
    few = goal.kind == "number" and len(values) <= FEW and bool((values == values.round(0)).all())
    if task == "classes" or (
        task == "auto" and len(goals) == 1 and (few or goal.kind in ("boolean", "category"))
    ):
        require(len(goals) == 1, "target", list(targets), "one column of classes; several must be numbers")
        return [Column(goal.name, "class", words=find_classes(frame[goal.name]))]
    kind: Kind = "boolean" if task == "labels" else "number"
    return [g if g.kind == "boolean" else Column(g.name, kind, decimal=format.decimal) for g in goals]


def find_classes(column: pl.Series) -> list[str]:
    """Return the names of the classes, in the order of their numbers or of the alphabet."""
    words = as_words(column.drop_nulls()).unique().sort()
    numbers = as_numbers(words)
    classes = (words if numbers.has_nulls() else words.gather(numbers.arg_sort())).to_list()
    if {word.lower() for word in classes} == set(TRUTHS):  # however each of them is written
        classes = [next(word for word in classes if word.lower() == truth) for truth in TRUTHS]
    only = classes[0] if classes else "no value"
    require(len(classes) > 1, "target", column.name, f"at least two classes, but every row has {only}")
    require(len(classes) <= 10_000, "target", column.name, f"classes, not {len(classes):,} different values")
    return classes


def read_split(column: pl.Series) -> Tensor:
    """Return the number in `SPLITS` of each row's word, int64 `(rows,)`."""
    words = column.cast(pl.String).str.to_lowercase()
    numbers = words.replace_strict(SPLITS, default=None, return_dtype=pl.Int64)
    if numbers.has_nulls():
        row = int(numbers.is_null().arg_max())  # type: ignore[arg-type]
        expected = f"train, val or test, but row {row + 1:,} has {words[row]!r}"
        raise ConfigError("split", column.name, expected=expected)
    return numbers.to_torch()


def describe(head: str, column: Column, values: Tensor) -> str:
    """Return a line on a column: its words or classes, or the range of known values; and what is missing."""
    known, words = values[~values.isnan()], column.words
    gaps, others = len(values) - len(known), 0
    if words:
        others, *counts, gaps = (values.long() + 1).bincount(minlength=len(words) + 2).tolist()
        shown = [f"{n} {c:,}" for n, c in zip(words, counts, strict=True)] if head == "target" else words
        most, what = (SHOWN, "classes") if head == "target" else (SHOWN // 2, "words")
        text = f"{len(words)} {what}: {', '.join(shown[:most])}" + (", …" if len(words) > most else "")
    elif column.kind == "boolean":
        text = f"true in {known.mean():.0%} of the rows"
    else:
        low, high = (show_value(column, float(value)) for value in known.aminmax())
        text = ("a value " if head == "target" else "") + f"from {low} to {high}"
    text += f"; {gaps:,} missing" if gaps else ""
    text += (
        f", taken as {show_value(column, column.fill)}" if gaps and column.kind in ("number", "date") else ""
    )
    return f"  {head:<9} {column.name:<20} {text}" + (f"; {others:,} of other words" if others else "")


def show_value(column: Column, value: float) -> str:
    """Return a number, or the date that it stands for."""
    if column.kind == "date":
        return f"{datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=value):%Y-%m-%d}"
    if value == round(value) and abs(value) < 1e15:
        return f"{column.origin + int(value):,}"
    return f"{value:,.6g}"
