"""A person's own table, CSV or Parquet: read by polars, understood column by column, split, and shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from descent.data.columns import Column, Encoder, class_names, fit, to_inputs, to_targets
from descent.data.files import TableReader, read
from descent.data.memory import InMemory, draw_missing
from descent.errors import ConfigError, nearest, require

if TYPE_CHECKING:
    import polars as pl

FEW = 20  # whole numbers are classes where there are at most this many different ones
SPLITS = {"train": 0, "training": 0, "val": 1, "valid": 1, "validation": 1, "test": 2}


def table(
    path: str | None,
    target: str | list[str] | None,
    task: Literal["auto", "classification", "regression"],
    columns: list[str] | None,
    exclude: list[str],
    categories: list[str],
    missing: list[str],
    max_categories: int,
    split: str | None,
    val_path: str | None,
    test_path: str | None,
    batch_size: int,
    eval_batch_size: int,
    val_fraction: float,
    test_fraction: float,
    seed: int,
) -> InMemory:
    """A CSV or Parquet file, in memory as one number a column and row (see `descent.data.columns`).

    Rows without a target are left out. Rules for missing values, dates and categories are fitted on the
    training rows alone. What was understood is in `preview`.

    Args:
        path: of the file, with a header; text is UTF-8, a CSV's separator is `,`, `;`, `|` or a tab.
        target: the column to predict, or several columns of numbers.
        task: "auto" takes text, true and false, and at most 20 different whole numbers for classes.
        columns: to learn from; None for all that are not the target, the split, or in `exclude`.
        exclude: columns not to learn from.
        categories: columns whose numbers are names, such as postcodes.
        missing: words that stand for no value.
        max_categories: words of a text column that are told apart, the most frequent ones.
        split: a column that says train, val or test in each row.
        val_path, test_path: files of their own for validation and test.
        batch_size, eval_batch_size, val_fraction, test_fraction, seed: those of `InMemory`; a fraction is
            of the rows that neither `split` nor a file has dealt.

    Raises:
        ConfigError: a file or column that is not there, a file without rows, text among numbers, or a target
            with one value only.
    """
    if not path:
        raise ConfigError(f"path={path}: expected a CSV or Parquet file, such as data.path=houses.csv")
    targets = [target] if isinstance(target, str) else list(target or ())
    require(max_categories >= 1, "max_categories", max_categories, "a whole number of at least 1")
    files = {"path": path, "val_path": val_path, "test_path": test_path}
    sources = {key: f"{key}={file}" for key, file in files.items() if file}
    frames = {key: read(str(files[key]), sources[key], missing, categories) for key in sources}
    frame = frames["path"]
    named = {"target": targets, "columns": columns, "exclude": exclude, "categories": categories}
    for key, names in {**named, "split": [split] if split else []}.items():
        for name in names or ():
            if name not in frame.columns:
                expected = f"one of the columns {', '.join(frame.columns)}{nearest(name, frame.columns)}"
                raise ConfigError(f"{key}={name}: expected {expected}")
    if not targets:
        raise ConfigError(f"target=null: expected one of the columns {', '.join(frame.columns)}")

    if task == "auto":
        task = task_of(frame.select(targets))
    classes = classes_of(frame, targets) if task == "classification" else []
    values = {key: to_targets(f, targets, classes, sources[key]) for key, f in frames.items()}
    for name, column in zip(targets, values["path"].T if task == "regression" else (), strict=False):
        known = column[~column.isnan()]
        if len(known) and bool((known == known[0]).all()):
            raise ConfigError(f"target={name}: expected different values, but every row has {known[0]:g}")
    splits = split_rows(frame, split, values, val_fraction, test_fraction, seed)
    unused = {*targets, *exclude, split}
    used = [name for name in columns or frame.columns if name not in unused]
    trained_on = torch.zeros(len(frame), dtype=torch.bool).index_fill(0, splits[0], True).numpy()
    rules, left_out = fit(frame.select(used).filter(trained_on), categories, max_categories)
    if not rules:
        raise ConfigError(f"path={path}: expected a column to learn from beside {', '.join(targets)}")
    inputs = torch.cat([to_inputs(rules, f, sources[key]) for key, f in frames.items()])
    plain = all(rule.kind == "number" for rule in rules) and not inputs.isnan().any()

    all_targets, sizes = torch.cat(list(values.values())), [f"{len(rows):,}" for rows in splits]
    gaps = len(all_targets) - sum(map(len, splits))
    preview = [
        f"{path}: {len(frame):,} rows, {len(frame.columns)} columns",
        f"  split     {sizes[0]} train, {sizes[1]} val, {sizes[2]} test"
        + (f"; left out, without a target: {gaps:,}" if gaps else ""),
        *target_lines(targets, classes, all_targets[splits[0]]),
        *column_lines(rules, left_out, inputs[splits[0]]),
    ]
    return InMemory(
        inputs,
        all_targets,
        classes or targets,
        batch_size=batch_size,
        eval_batch_size=eval_batch_size,
        val_fraction=val_fraction,
        test_fraction=test_fraction,
        seed=seed,
        splits=splits,
        encoder=None if plain else Encoder(rules),
        reader=TableReader(str(Path(path).expanduser().resolve()), targets, list(missing), rules).state(),
        preview="".join(line + "\n" for line in preview),
    )


# ---- targets and splits ------------------------------------------------------------------------------------


def task_of(targets: pl.DataFrame) -> Literal["classification", "regression"]:
    """Text, true and false, and few whole numbers are classes; everything else is a value."""
    import polars as pl

    if targets.width > 1:
        return "regression"
    column = targets.to_series().drop_nulls()
    if column.dtype in (pl.String, pl.Boolean, pl.Categorical, pl.Enum):
        return "classification"
    few = column.dtype.is_numeric() and column.n_unique() <= FEW
    return "classification" if few and bool((column == column.round(0)).all()) else "regression"


def classes_of(frame: pl.DataFrame, targets: Sequence[str]) -> list[str]:
    """Names of the classes: in the order of their numbers, or of the alphabet."""
    if len(targets) > 1:
        raise ConfigError(f"target={targets}: expected one column of classes; several must be numbers")
    column = frame[targets[0]].drop_nulls().unique().sort()
    classes = list(dict.fromkeys(class_names(column)))
    if len(classes) < 2:
        only = classes[0] if classes else "no value"
        raise ConfigError(f"target={targets[0]}: expected at least two classes, but every row has {only}")
    require(len(classes) <= 10_000, "target", targets[0], f"classes, not {len(classes):,} different values")
    return classes


def split_rows(
    frame: pl.DataFrame,
    split: str | None,
    values: Mapping[str, Tensor],
    val_fraction: float,
    test_fraction: float,
    seed: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Rows with a target for training, validation and test, int64, as if the files were one after another.

    Args:
        frame: the rows of the first file.
        split: its column that says train, val or test; those of the two that no row says are drawn.
        values: targets of each file, as of `to_targets`, in the order "path", "val_path", "test_path".
        val_fraction, test_fraction: shares of the first file's rows, where they are drawn.
        seed: of what is drawn.
    """
    import polars as pl

    known = {key: ~(t.isnan().any(1) if t.is_floating_point() else t < 0) for key, t in values.items()}
    starts = dict(zip(values, [0, *torch.tensor([len(t) for t in values.values()]).cumsum(0)], strict=False))
    dealt = {key: known[key].nonzero().flatten() + starts[key] for key in values}
    train, targets = dealt["path"], values["path"]
    parts = {key: dealt.get(f"{key}_path", torch.empty(0, dtype=torch.int64)) for key in ("val", "test")}
    if split is not None:
        words = frame[split].cast(pl.String).str.to_lowercase().str.strip_chars()
        numbers = words.replace_strict(SPLITS, default=None, return_dtype=pl.Int64)
        if numbers.has_nulls():
            row = int(numbers.is_null().arg_max())  # type: ignore[arg-type]
            raise ConfigError(
                f"split={split}: expected train, val or test, but row {row + 1:,} has {words[row]!r}"
            )
        part_of = numbers.to_torch()[train]
        parts = {key: torch.cat([parts[key], train[part_of == SPLITS[key]]]) for key in parts}
        train = train[part_of == 0]
    if len(train) == 0:
        raise ConfigError("target: expected rows to train on, but none has a target")
    return draw_missing(train, parts, targets, val_fraction, test_fraction, seed)


# ---- what was understood -----------------------------------------------------------------------------------


def target_lines(targets: Sequence[str], classes: Sequence[str], values: Tensor) -> list[str]:
    if not classes:
        return [
            f"  target    {name:<20} a value from {column.min():,.6g} to {column.max():,.6g}"
            for name, column in zip(targets, values.T, strict=True)
        ]
    counts = values.bincount(minlength=len(classes)).tolist()
    shown = [f"{name} {count:,}" for name, count in list(zip(classes, counts, strict=True))[:10]]
    more = ", …" if len(classes) > 10 else ""
    return [f"  target    {targets[0]:<20} {len(classes)} classes: {', '.join(shown)}{more}"]


def column_lines(columns: Sequence[Column], left_out: Mapping[str, str], inputs: Tensor) -> list[str]:
    """A line a column, of the training rows."""
    lines = []
    for column, values in zip(columns, inputs.T, strict=True):
        if column.kind == "category":
            gaps = int((values == len(column.words)).sum())
            shown = ", ".join(column.words[:5]) + (", …" if len(column.words) > 5 else "")
            about = f"{len(column.words)} words: {shown}" + (f"; {gaps:,} missing" if gaps else "")
        else:
            gaps = int(values.isnan().sum())
            low, high, fill = (
                show(column, float(v))
                for v in (
                    values.nan_to_num(float("inf")).min(),
                    values.nan_to_num(float("-inf")).max(),
                    column.fill,
                )
            )
            about = f"from {low} to {high}" + (f"; {gaps:,} missing, taken as {fill}" if gaps else "")
        lines.append(f"  {column.kind:<9} {column.name:<20} {about}")
    return lines + [f"  left out  {name:<20} {reason}" for name, reason in left_out.items()]


def show(column: Column, value: float) -> str:
    """A number, or the date that it stands for."""
    from datetime import UTC, datetime, timedelta

    if column.kind == "number":
        return f"{value:,.6g}"
    return f"{datetime(1970, 1, 1, tzinfo=UTC) + timedelta(days=value):%Y-%m-%d}"
