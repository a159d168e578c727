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
from descent.errors import ConfigError, clean, require, require_one_of
from descent.table.columns import Column, Unusable, as_numbers, find_kind, fit_column
from descent.table.files import Format, as_words, read_blocks
from descent.table.reader import TableReader

FEW = 20  # whole numbers are classes where there are at most this many different ones
SHOWN = 10  # classes or words that the preview shows
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
    """Return the rows of a CSV or Parquet file that have a target; conf/data/table.yaml explains arguments.

    Raises:
        ConfigError: a file or column that is not there, a file without rows, text among numbers, or a target
            with one value only.
    """
    require(bool(path), "path", path, "a CSV or Parquet file, such as data.path=houses.csv")
    require(max_categories >= 1, "max_categories", max_categories, "a whole number of at least 1")
    words, separator = [str(word) for word in missing], (separator or "").replace("\\t", "\t")
    format = Format(words, "utf-8" if encoding == "auto" else encoding, separator, decimal, dates)
    given = {"path": path, "val_path": val_path, "test_path": test_path}
    files = [NamedPath(key, file) for key, file in given.items() if file]
    parts = [(pl.concat(list(read_blocks(file, format)), rechunk=False), file) for file in files]
    frame, targets = parts[0][0], [target] if isinstance(target, str) else target or []
    listed = {"target": targets, "columns": columns or [], "exclude": exclude, "categories": categories}
    expected = f"one of the columns {', '.join(frame.columns)[:2000]}".replace("\n", " ")
    expected += "; data.separator is what stands between columns" if frame.width == 1 else ""
    for key, names in (listed | {"split": [split] if split else []}).items():
        listed[key] = [normalize("NFC", str(name)) for name in names]
        for name in listed[key]:
            require_one_of(frame.columns, key, name, expected)
    require(bool(targets), "target", None, expected)
    goals = find_goals(frame, listed["target"], task, format)
    reader = TableReader(str(Path(files[0].path).expanduser().resolve()), goals, format, [])
    read = [reader.take_targets(*part) for part in parts]
    splits = [torch.full((len(part),), list(given).index(file.key)) for part, file in parts]
    for name in listed["split"]:
        splits[0] = read_split(frame[name])
    values, known, place = torch.cat([v for v, _ in read]), torch.cat([k for _, k in read]), torch.cat(splits)
    rows = {name: (known & (place == SPLITS[name])).nonzero().flatten() for name in ("train", "val", "test")}
    require(len(rows["train"]) > 0, "target", target, "rows to train on, but none has a target")
    for goal, column in zip(goals, values[known].reshape(int(known.sum()), -1).T, strict=True):
        same = goal.kind == "number" and bool((column == column[0]).all())
        require(not same, "target", goal.name, f"different values, but every row has {column[0]:g}")
    passed = {*listed["target"], *listed["exclude"], *listed["split"]}
    for name in listed["columns"] or frame.columns:
        if name not in passed:
            reader.columns.append(Column(name, "category" if name in listed["categories"] else "unknown"))
    fit = partial(fit_table, parts, reader, max_categories)
    inputs = torch.empty(len(values), 0)  # filled by `fit`, when the training rows are known
    return Samples(inputs, values, goals[0].words or reader.targets, rows, fit=fit)


def find_goals(frame: pl.DataFrame, targets: Sequence[str], task: str, format: Format) -> list[Column]:
    """Return the rules of the targets: one of classes, or numbers, or booleans."""
    goals = []
    for name in targets:
        try:
            goals.append(find_kind(frame[name].drop_nulls(), format, task == "classes"))
        except Unusable as error:
            raise ConfigError("target", name, expected=f"values that can be read; {error}") from error
    goal, many = goals[0], len(goals) > 1
    if task == "auto" and many and all(Column("", "boolean").holds(frame[n].drop_nulls()) for n in targets):
        expected = "labels or values, because these targets are 0 and 1 alone"
        raise ConfigError("task", task, expected=expected)
    numbers = goal.read(frame[goal.name]).drop_nulls().unique()
    few = len(numbers) <= FEW and bool((numbers == numbers.round(0)).all())
    likely = goal.kind in ("boolean", "category") or (goal.kind == "number" and few)
    if task == "classes" or (task == "auto" and likely and not many):
        require(not many, "target", list(targets), "one column of classes; several must be numbers")
        return [Column(goal.name, "class", words=find_classes(frame[goal.name]))]
    kind = "boolean" if task == "labels" else "number"
    return [g if g.kind == "boolean" else Column(g.name, kind, decimal=format.decimal) for g in goals]


def find_classes(column: pl.Series) -> list[str]:
    """Return the names of the classes, in the order of their numbers or of the alphabet."""
    words = as_words(column.drop_nulls()).unique().sort()
    numbers = as_numbers(words)
    classes = (words if numbers.has_nulls() else words.gather(numbers.arg_sort())).to_list()
    require(len(classes) > 1, "target", column.name, f"at least two classes, but every row has {classes[0]}")
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


def fit_table(
    parts: Sequence[tuple[pl.DataFrame, NamedPath]],
    reader: TableReader,
    most: int,
    samples: Samples,
    rows: Mapping[str, Tensor],
    like: Mapping[str, Any] | None = None,
) -> Samples:
    """Return the samples with inputs, by rules from the training rows or by those of another run.

    Args:
        parts: rows and file of the table, and of those of validation and test.
        reader: of the targets, and of the columns to learn from, whose kinds are not known yet.
        most: words of a text column that are told apart.
        samples, rows, like: see `Samples.fit`.
    """
    (frame, file), train, names = parts[0], rows["train"], list(samples.names)
    columns, left_out = [], {}
    if like is not None and like["reader"]["kind"] == "table":
        columns, start = TableReader.from_description(like["reader"]).columns, f"init_from={like['run']}"
        used, known = ([column.name for column in part] for part in (reader.columns, columns))
        if gaps := ", ".join(name for name in known if name not in used):
            raise file.error(f"the columns that {start} learned from; not learned from here: {gaps}")
        left_out = {name: f"{start} did not learn from it" for name in used if name not in known}
    else:
        for column in reader.columns:
            try:
                values, named = frame[column.name].gather(train.numpy()), column.kind == "category"
                columns.append(fit_column(values, reader.format, named, most))
            except Unusable as error:
                left_out[column.name] = str(error)
    if not columns:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in list(left_out.items())[:5])
        raise file.error(
            f"a column to learn from beside {', '.join(reader.targets)}; left out: {reasons or 'none'}"
        )
    goals = sorted(reader.goals, key=lambda goal: 0 if goal.words else names.index(goal.name))
    goals = [replace(goal, words=names) if goal.words else goal for goal in goals]
    reader = TableReader(reader.path, goals, reader.format, columns)
    try:
        inputs = torch.cat([reader.take(*part) for part in parts])
    except ConfigError as error:
        if "but row" in error.expected:
            error.expected += "; add it to data.missing, or the column to data.categories if it is text"
        raise
    plain = all(column.kind in ("number", "boolean") and not column.flagged for column in columns)
    encoder = None if plain and not inputs.isnan().any() else reader.encoder()
    sizes = ", ".join(f"{len(part):,} {name}" for name, part in rows.items())
    gap = len(inputs) - sum(map(len, rows.values()))
    lines = [
        f"{file.path}: {len(frame):,} rows, {frame.width} columns",
        f"  split     {sizes}" + (f"; left out, without a target: {gap:,}" if gap else ""),
    ]
    targets = samples.targets[train].reshape(len(train), -1)
    lines += [describe("target", goal, v) for goal, v in zip(goals, targets.T, strict=True)]
    lines += [
        describe(column.kind, column, v)
        for column, v in zip(columns, inputs[train].T.contiguous(), strict=True)
    ]
    lines += [f"  left out  {name:<20} {reason}" for name, reason in left_out.items()]
    return replace(
        samples,
        inputs=inputs,
        encoder=encoder,
        scaled=None if encoder is None else encoder.scaled,
        reader=reader.describe(),
        preview="".join(clean(line).replace("\n", " ") + "\n" for line in lines),
    )


def describe(head: str, column: Column, values: Tensor) -> str:
    """Return a line on a column: its words or classes, or the range of known values; and what is missing."""
    known, words = values[~values.isnan()], column.words
    gaps, others = len(values) - len(known), 0
    if words:
        others, *counts, gaps = (values.long() + 1).bincount(minlength=len(words) + 2).tolist()
        shown, what = words[:SHOWN], "words"
        if column.kind == "class":
            shown, what = [f"{name} {count:,}" for name, count in zip(shown, counts, strict=False)], "classes"
        text = f"{len(words)} {what}: {', '.join(shown)}" + (", …" if len(words) > SHOWN else "")
    elif not len(known):
        text = "no values"
    elif column.kind == "boolean":
        text = f"true in {known.mean():.0%} of the rows"
    else:
        text = "from {} to {}".format(*(show_value(column, float(value)) for value in known.aminmax()))
    if gaps:
        filled = f", taken as {show_value(column, column.fill)}" if column.kind in ("number", "date") else ""
        text += f"; {gaps:,} missing{filled}"
    return f"  {head:<9} {column.name:<20} {text}" + (f"; {others:,} of other words" if others else "")


def show_value(column: Column, value: float) -> str:
    """Return a number, or the date that it stands for."""
    if column.kind == "date":
        return f"{datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=value):%Y-%m-%d}"
    whole = value == round(value) and abs(value) < 1e15
    return f"{column.origin + int(value):,}" if whole else f"{value:,.6g}"
