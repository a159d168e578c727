"""A table as samples: what is predicted, which rows are given to which split, and what is learned from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from descent.data.paths import NamedPath
from descent.data.samples import Samples
from descent.data.table.columns import Encoder, fit_columns, name_classes, to_inputs, to_targets
from descent.data.table.files import read_whole
from descent.data.table.preview import describe_columns, describe_splits, describe_targets
from descent.data.table.reader import TableReader
from descent.errors import ConfigError, require

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
) -> Samples:
    """Return the rows of a CSV or Parquet file, one number a column (see `descent.data.table.columns`).

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

    Raises:
        ConfigError: a file or column that is not there, a file without rows, text among numbers, or a target
            with one value only.
    """
    if not path:
        raise ConfigError("path", path, expected="a CSV or Parquet file, such as data.path=houses.csv")
    require(max_categories >= 1, "max_categories", max_categories, "a whole number of at least 1")
    given = {"path": path, "val_path": val_path, "test_path": test_path}
    files = [NamedPath(key, file) for key, file in given.items() if file]
    frames = [read_whole(file, missing, categories) for file in files]
    frame, targets = frames[0], [target] if isinstance(target, str) else list(target or ())
    named = {"target": targets, "columns": columns, "exclude": exclude, "categories": categories}
    require_columns(frame, {**named, "split": [split] if split else []})
    if not targets:
        raise ConfigError("target", None, expected=f"one of the columns {', '.join(frame.columns)}")
    if task == "auto":
        task = guess_task(frame.select(targets))
    classes = find_classes(frame, targets) if task == "classification" else []
    values = [to_targets(f, targets, classes, file) for f, file in zip(frames, files, strict=True)]
    if task == "regression":
        refuse_constants(targets, values[0])
    used = [name for name in columns or frame.columns if name not in {*targets, *exclude, split}]
    tables = Tables(files, frames, targets, classes, used, categories, missing, max_categories)
    rows = find_rows(frame, split, dict(zip([file.key for file in files], values, strict=True)))
    inputs = torch.empty(sum(map(len, frames)), 0)  # filled by `fit`, when the training rows are known
    return Samples(inputs, torch.cat(values), classes or targets, rows, fit=tables.fit)


@dataclass
class Tables:
    """Files that were read, and what is to be learned from them.

    Attributes:
        files: the first one, which rules are fitted on, and those of validation and test.
        frames: their rows.
        targets: the columns to predict.
        classes: their names; empty in regression.
        used: the columns to learn from.
        categories, missing, max_categories: as of `table`.
    """

    files: Sequence[NamedPath]
    frames: Sequence[pl.DataFrame]
    targets: list[str]
    classes: list[str]
    used: list[str]
    categories: Sequence[str]
    missing: Sequence[str]
    max_categories: int

    def fit(self, samples: Samples, rows: Mapping[str, Tensor]) -> Samples:
        """Return the samples with inputs by rules that are fitted on the training rows."""
        file, frame, train = self.files[0], self.frames[0], rows["train"]
        trained_on = torch.zeros(len(frame), dtype=torch.bool).index_fill(0, train, True).numpy()
        of_training = frame.select(self.used).filter(trained_on)
        rules, left_out = fit_columns(of_training, self.categories, self.max_categories)
        if not rules:
            raise file.error(f"a column to learn from beside {', '.join(self.targets)}")
        pairs = zip(self.frames, self.files, strict=True)
        inputs = torch.cat([to_inputs(rules, f, named) for f, named in pairs])
        lines = [
            f"{file.path}: {len(frame):,} rows, {len(frame.columns)} columns",
            describe_splits(rows, len(inputs)),
            *describe_targets(self.targets, self.classes, samples.targets[train]),
            *describe_columns(rules, left_out, inputs[train]),
        ]
        path = str(Path(file.path).expanduser().resolve())
        reader = TableReader(path, self.targets, list(self.missing), rules)
        plain = all(rule.kind == "number" for rule in rules) and not inputs.isnan().any()
        encoder = None if plain else Encoder(rules)
        return replace(
            samples,
            inputs=inputs,
            encoder=encoder,
            scaled=None if encoder is None else encoder.scaled,
            reader=reader.describe(),
            preview="".join(f"{line}\n" for line in lines),
        )


def require_columns(frame: pl.DataFrame, named: Mapping[str, Sequence[str] | None]) -> None:
    """Raise a `ConfigError` of the first column, named by a key, that the file has not."""
    for key, names in named.items():
        for name in names or ():
            if name not in frame.columns:
                expected = f"one of the columns {', '.join(frame.columns)}"
                raise ConfigError(key, name, expected=expected, choices=frame.columns)


def guess_task(targets: pl.DataFrame) -> Literal["classification", "regression"]:
    """Take text, true and false, and few whole numbers for classes, and everything else for values."""
    import polars as pl

    if targets.width > 1:
        return "regression"
    column = targets.to_series().drop_nulls()
    if column.dtype in (pl.String, pl.Boolean, pl.Categorical, pl.Enum):
        return "classification"
    few = column.dtype.is_numeric() and column.n_unique() <= FEW
    return "classification" if few and bool((column == column.round(0)).all()) else "regression"


def find_classes(frame: pl.DataFrame, targets: Sequence[str]) -> list[str]:
    """Return the names of the classes, in the order of their numbers or of the alphabet."""
    if len(targets) > 1:
        raise ConfigError("target", list(targets), expected="one column of classes; several must be numbers")
    column = frame[targets[0]].drop_nulls().unique().sort()
    classes = list(dict.fromkeys(name_classes(column)))
    if len(classes) < 2:
        only = classes[0] if classes else "no value"
        raise ConfigError("target", targets[0], expected=f"at least two classes, but every row has {only}")
    require(len(classes) <= 10_000, "target", targets[0], f"classes, not {len(classes):,} different values")
    return classes


def refuse_constants(targets: Sequence[str], values: Tensor) -> None:
    """Raise a `ConfigError` of the first target whose known values are all the same."""
    for name, column in zip(targets, values.T, strict=True):
        known = column[~column.isnan()]
        if len(known) and bool((known == known[0]).all()):
            raise ConfigError("target", name, expected=f"different values, but every row has {known[0]:g}")


def find_rows(frame: pl.DataFrame, split: str | None, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the rows with a target of each split, int64, as if the files were one after another.

    Args:
        frame: the rows of the first file.
        split: its column that says train, val or test.
        values: targets of each file, as of `to_targets`, in the order "path", "val_path", "test_path".
    """
    rows, start = {}, 0
    for key, targets in values.items():
        known = ~targets.isnan().any(1) if targets.is_floating_point() else targets >= 0
        rows[key] = known.nonzero().flatten() + start
        start += len(targets)
    none = torch.arange(0)
    parts = {"train": rows["path"], "val": rows.get("val_path", none), "test": rows.get("test_path", none)}
    if split is not None:
        part_of = read_split(frame, split)[parts["train"]]
        of_file = {name: parts["train"][part_of == SPLITS[name]] for name in parts}
        parts = {"train": of_file["train"]} | {
            name: torch.cat([parts[name], of_file[name]]) for name in ("val", "test")
        }
    if len(parts["train"]) == 0:
        raise ConfigError("target", expected="rows to train on, but none has a target")
    return parts


def read_split(frame: pl.DataFrame, split: str) -> Tensor:
    """Return the number in `SPLITS` of each row's word, int64 `(rows,)`."""
    import polars as pl

    words = frame[split].cast(pl.String).str.to_lowercase().str.strip_chars()
    numbers = words.replace_strict(SPLITS, default=None, return_dtype=pl.Int64)
    if numbers.has_nulls():
        row = int(numbers.is_null().arg_max())  # type: ignore[arg-type]
        expected = f"train, val or test, but row {row + 1:,} has {words[row]!r}"
        raise ConfigError("split", split, expected=expected)
    return numbers.to_torch()
