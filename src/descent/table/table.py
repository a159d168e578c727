"""A table as samples: its targets, the rows of each split, and the columns to learn from."""

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
from descent.table.columns import Column, as_numbers, find_kind, fit_column, to_numbers
from descent.table.files import Format, as_words, read_blocks
from descent.table.reader import TableReader

FEW = 20  # whole numbers are classes if there are at most this many different ones
SHOWN = 10  # classes or categories that the preview shows
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
    """Return the rows of a file that have a target, as conf/data/table.yaml explains; else a ConfigError."""
    require(bool(path), "path", path, "a CSV or Parquet file, such as data.path=houses.csv")
    require(max_categories >= 1, "max_categories", max_categories, "a whole number of at least 1")
    words, separator = [str(word) for word in missing], (separator or "").replace("\\t", "\t")
    format = Format(words, "utf-8" if encoding == "auto" else encoding, separator, decimal, dates)
    paths = {"path": path, "val_path": val_path, "test_path": test_path}
    files = [NamedPath(key, file) for key, file in paths.items() if file]
    parts = [(pl.concat(list(read_blocks(file, format)), rechunk=False), file) for file in files]
    frame, targets = parts[0][0], [target] if isinstance(target, str) else target or []
    expected = f"one of the columns {', '.join(frame.columns)[:2000]}".replace("\n", " ")
    expected += "; data.separator is what stands between columns" if frame.width == 1 else ""
    require(bool(targets), "target", None, expected)
    listed = {"target": targets, "columns": columns or [], "exclude": exclude, "categories": categories}
    listed = {key: [normalize("NFC", str(name)) for name in names] for key, names in listed.items()}
    listed["split"] = [split] if split else []
    for key, names in listed.items():
        listed[key] = [str(name) for name in names]
        for name in listed[key]:
            require_one_of(frame.columns, key, name, expected)
    goals = find_goals(frame, listed["target"], task, format)
    passed = {*listed["target"], *listed["exclude"], *listed["split"]}
    kinds = dict.fromkeys(listed["categories"], "category")
    learned = [Column(n, kinds.get(n, "")) for n in listed["columns"] or frame.columns if n not in passed]
    reader = TableReader(str(Path(files[0].path).expanduser().resolve()), goals, format, learned)
    read = [reader.take_targets(*part) for part in parts]
    values, known = torch.cat([v for v, _ in read]), torch.cat([k for _, k in read])
    splits = [torch.full((len(part),), list(paths).index(file.key)) for part, file in parts]
    for name in listed["split"]:
        lower = frame.select(pl.col(name).cast(pl.String).str.to_lowercase().fill_null(""))
        found = to_numbers([Column(name, "class", words=list(SPLITS))], lower, files[0])
        splits[0] = torch.tensor(list(SPLITS.values()))[found[:, 0].long()]
    place = torch.where(known, torch.cat(splits), -1)
    rows = {name: (place == SPLITS[name]).nonzero().flatten() for name in ("train", "val", "test")}
    require(len(rows["train"]) > 0, "target", target, "rows to train on, but none has a target")
    fit = partial(fit_table, parts, reader, max_categories)
    inputs = torch.empty(len(values), 0)  # filled by `fit`, once the training rows are known
    names = goals[0].words if goals[0].kind == "class" else reader.targets
    return Samples(inputs, values, names, rows, fit=fit)


def find_goals(frame: pl.DataFrame, targets: Sequence[str], task: str, format: Format) -> list[Column]:
    """Return the rules of the targets: one of classes, or numbers, or booleans."""
    goals = []
    for name in targets:
        try:
            goals.append(find_kind(frame[name].drop_nulls(), format, task == "classes"))
        except ValueError as error:
            raise ConfigError("target", name, expected=f"values that can be read; {error}") from error
    goal = goals[0]
    numbers = goal.read(frame[goal.name]).drop_nulls().unique()
    few = len(numbers) <= FEW and bool((numbers == numbers.round(0)).all())
    likely = goal.kind in ("boolean", "category") or (goal.kind == "number" and few)
    if len(goals) == 1 and (task == "classes" or (task == "auto" and likely)):
        words = as_words(frame[goal.name].drop_nulls()).unique().sort()
        numbers = as_numbers(words)
        classes = (words if numbers.has_nulls() else words.gather(numbers.arg_sort())).to_list()
        expected = f"from two to 10,000 classes, not {len(classes):,}, such as {classes[0]:.200}"
        require(1 < len(classes) <= 10_000, "target", goal.name, expected)
        return [Column(goal.name, "class", words=classes)]
    return [g if g.kind == "boolean" else Column(g.name, "number", decimal=format.decimal) for g in goals]


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
    (frame, file), train, names, left_out = parts[0], rows["train"], list(samples.names), {}
    if like is not None and like["reader"]["kind"] == "table":
        columns, start = TableReader.from_description(like["reader"]).columns, f"init_from={like['run']}"
        used, known = ([column.name for column in part] for part in (reader.columns, columns))
        if gaps := ", ".join(name for name in known if name not in used):
            raise file.error(f"the columns that {start} learned from; not learned from here: {gaps}")
        left_out = {name: f"{start} did not learn from it" for name in used if name not in known}
    else:
        columns = []
        for column in reader.columns:
            try:
                values, named = frame[column.name].gather(train.numpy()), column.kind == "category"
                columns.append(fit_column(values, reader.format, named, most))
            except ValueError as error:
                left_out[column.name] = str(error)
    if not columns:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in left_out.items())[:1000] or "none"
        raise file.error(f"a column to learn from beside {', '.join(reader.targets)}; left out: {reasons}")
    goals = [replace(goal, words=names) for goal in reader.goals if goal.kind == "class"]
    goals = goals or sorted(reader.goals, key=lambda goal: names.index(goal.name))
    reader = TableReader(reader.path, goals, reader.format, columns)
    inputs = torch.cat([reader.take(*part) for part in parts])
    plain = all(column.kind in ("number", "boolean") and not column.flagged for column in columns)
    encoder = None if plain and not inputs.isnan().any() else reader.encoder()
    gap = len(inputs) - sum(map(len, rows.values()))
    sizes = ", ".join(f"{len(part):,} {name}" for name, part in rows.items())
    targets = samples.targets[train].reshape(len(train), -1)
    lines = [
        f"{file.path}: {len(frame):,} rows, {frame.width} columns",
        f"  split     {sizes}" + (f"; left out, without a target: {gap:,}" if gap else ""),
        *(describe("target", goal, v) for goal, v in zip(goals, targets.T, strict=True)),
        *(describe(column.kind, column, v) for column, v in zip(columns, inputs[train].T, strict=True)),
        *(f"  left out  {name:<20} {reason}" for name, reason in left_out.items()),
    ]
    return replace(
        samples,
        inputs=inputs,
        encoder=encoder,
        scaled=None if encoder is None else encoder.scaled,
        reader=reader.describe(),
        preview="".join(clean(line).replace("\n", " ") + "\n" for line in lines),
    )


def describe(head: str, column: Column, values: Tensor) -> str:
    """Return a line on a column: the rows of each word, or the range of known values; and what is missing."""

    def show(value: float) -> str:
        if column.kind == "date":
            return f"{datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=value):%Y-%m-%d}"
        return f"{value:,.10g}"

    words, known = column.words, values[~values.isnan()]
    text, filled, gaps = "no values", f", taken as {show(column.fill)}", len(values) - len(known)
    if words:
        codes = values.nan_to_num(len(words)).long() + 1
        others, *counts, gaps = codes.bincount(minlength=len(words) + 2).tolist()
        others, filled = others + sum(counts[SHOWN:]), ""
        shown = [f"{word} {count:,}" for word, count in zip(words[:SHOWN], counts, strict=False)]
        text = f"{len(words)} words: {', '.join(shown)}" + (f", others {others:,}" if others else "")
    elif len(known):
        text = "from {} to {}".format(*(show(float(value)) for value in known.aminmax()))
    return f"  {head:<9} {column.name:<20} {text}" + (f"; {gaps:,} missing{filled}" if gaps else "")
