"""A table as samples: what is predicted, which rows are given to which split, and what is learned from."""

from __future__ import annotations

import codecs
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from descent.data.named_path import NamedPath
from descent.data.samples import Samples
from descent.data.table.columns import Column, are_known, to_inputs, to_targets
from descent.data.table.encoder import Encoder
from descent.data.table.files import Format, read_whole, separator_of
from descent.data.table.fitting import find_rules, fit_columns
from descent.data.table.forms import TRUTHS, Unusable, as_numbers, as_words
from descent.data.table.preview import describe_columns, describe_splits, describe_targets
from descent.data.table.table_reader import TableReader
from descent.errors import ConfigError, require, require_one_of

if TYPE_CHECKING:
    import polars as pl

FEW = 20  # whole numbers are classes where there are at most this many different ones
DATES = ("auto", "day_first", "month_first")
KEYS = ("path", "val_path", "test_path")
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
    decimal: Literal["auto", "point", "comma"],
    dates: str,
    encoding: str,
    split: str | None,
    val_path: str | None,
    test_path: str | None,
) -> Samples:
    """Return the rows of a CSV or Parquet file, one number a column (see `descent.data.table.columns`).

    Rows without a target are left out. How values are written, and rules for missing values, dates and
    categories, are fitted on the training rows alone. What was understood is in `preview`.

    Args:
        path: of the file, with a header; a CSV's separator is `,`, `;`, `|` or a tab.
        target: the column to predict, or several columns of numbers.
        task: "auto" takes text, true and false, and at most 20 different whole numbers for classes.
        columns: to learn from; None for all that are not the target, the split, or in `exclude`.
        exclude: columns not to learn from.
        categories: columns whose numbers are names, such as postcodes.
        missing: words that stand for no value.
        max_categories: words of a text column that are told apart, the most frequent ones.
        decimal: what 1,234 or 1.234 is, where the column does not tell.
        dates: "day_first" or "month_first" where the column does not tell, or a form of `strptime`.
        encoding: of a CSV; "auto" is UTF-8, or what the file's first bytes say.
        split: a column that says train, val or test in each row.
        val_path, test_path: files of their own for validation and test.

    Raises:
        ConfigError: a file or column that is not there, a file without rows, text among numbers, or a target
            with one value only.
    """
    require(bool(path), "path", path, "a CSV or Parquet file, such as data.path=houses.csv")
    require(max_categories >= 1, "max_categories", max_categories, "a whole number of at least 1")
    given = zip(KEYS, (path, val_path, test_path), strict=True)
    files = [NamedPath(key, file) for key, file in given if file]
    format = choose_format(files[0], missing, decimal, dates, encoding)
    frames = [read_whole(file, format) for file in files]
    frame, targets = frames[0], [target] if isinstance(target, str) else list(target or ())
    named = {"target": targets, "columns": columns, "exclude": exclude, "categories": categories}
    require_columns(frame, {**named, "split": [split] if split else []})
    if not targets:
        raise ConfigError("target", None, expected=f"one of the columns {', '.join(frame.columns)}")
    goals = find_targets(frame, targets, task, format)
    values = [to_targets(goals, f, file) for f, file in zip(frames, files, strict=True)]
    if goals[0].kind != "category":
        refuse_constants(targets, values[0])
    used = [name for name in columns or frame.columns if name not in {*targets, *exclude, split}]
    tables = Tables(files, frames, goals, used, categories, format, max_categories)
    rows = find_rows(frame, split, dict(zip([file.key for file in files], values, strict=True)))
    inputs = torch.empty(sum(map(len, frames)), 0)  # filled by `fit`, when the training rows are known
    return Samples(inputs, torch.cat(values), goals[0].words or targets, rows, fit=tables.fit)


@dataclass
class Tables:
    """Files that were read, and what is to be learned from them.

    Attributes:
        files: the first one, which rules are fitted on, and those of validation and test.
        frames: their rows.
        targets: the columns to predict, by their rules.
        used: the columns to learn from.
        categories, max_categories: as of `table`.
        format: how the files are written.
    """

    files: Sequence[NamedPath]
    frames: Sequence[pl.DataFrame]
    targets: list[Column]
    used: list[str]
    categories: Sequence[str]
    format: Format
    max_categories: int

    def fit(
        self, samples: Samples, rows: Mapping[str, Tensor], like: Mapping[str, Any] | None = None
    ) -> Samples:
        """Return the samples with inputs by rules that are fitted on the training rows."""
        (file, *files), (frame, *frames), train = self.files, self.frames, rows["train"]
        total, width = frame.shape
        rules, left_out, first = self.fit_first(train, like)
        pairs = zip(frames, files, strict=True)
        inputs = torch.cat([first, *(to_inputs(rules, f, named) for f, named in pairs)])
        names = list(samples.names)  # in the order of another run's, where this one starts from it
        if self.targets[0].kind == "category":
            goals = [replace(self.targets[0], words=names)]
        else:
            goals = sorted(self.targets, key=lambda target: names.index(target.name))
        lines = [
            f"{file.path}: {total:,} rows, {width} columns",
            describe_splits(rows, len(inputs)),
            *describe_targets(goals, samples.targets[train]),
            *describe_columns(rules, left_out, inputs[train]),
        ]
        path = str(Path(file.path).expanduser().resolve())
        simple = all(rule.kind in ("number", "truth") and not rule.flagged for rule in rules)
        plain = simple and not inputs.isnan().any()
        encoder = None if plain else Encoder(rules)
        return replace(
            samples,
            inputs=inputs,
            encoder=encoder,
            scaled=None if encoder is None else encoder.scaled,
            reader=TableReader(path, goals, self.format, rules).describe(),
            # a name or a word may go on in a second line
            preview="".join(line.replace("\n", " ") + "\n" for line in lines),
        )

    def fit_first(
        self, train: Tensor, like: Mapping[str, Any] | None
    ) -> tuple[list[Column], dict[str, str], Tensor]:
        """Return the rules, by name why other columns are left out, and the inputs of the first file.

        The rules are those of another run, where this one starts from it.

        Raises:
            ConfigError: there is no column to learn from, or one of the other run's is not.
        """
        file, frame = self.files[0], self.frames[0]
        if like is not None and like["reader"]["kind"] == "table":
            theirs = TableReader.from_description(like["reader"]).columns
            known = [column.name for column in theirs]
            gaps = ", ".join(name for name in known if name not in self.used)
            if gaps:
                expected = (
                    f"the columns that init_from={like['run']} learned from; not learned from here: {gaps}"
                )
                raise file.error(expected)
            others = [name for name in self.used if name not in known]
            left_out = dict.fromkeys(others, f"init_from={like['run']} did not learn from it")
            return theirs, left_out, to_inputs(theirs, frame, file)
        trained_on = torch.zeros(len(frame), dtype=torch.bool).index_fill(0, train, True).numpy()
        found = find_rules(frame, self.used, trained_on, self.categories, self.format)
        rules, left_out, inputs = fit_columns(frame, trained_on, found, self.max_categories, file)
        if not rules:
            names = ", ".join(target.name for target in self.targets)
            reasons = "; ".join(f"{name}: {reason}" for name, reason in list(left_out.items())[:5])
            because = f"; left out are {reasons}" if reasons else ""
            raise file.error(f"a column to learn from beside {names}{because}")
        return rules, left_out, inputs


def choose_format(file: NamedPath, missing: list[str], decimal: str, dates: str, encoding: str) -> Format:
    """Return how files are written, by what a person said of them and by the first one; as of `table`."""
    if "%" not in dates:
        require_one_of(DATES, "dates", dates, f"one of {', '.join(DATES)}, or a form such as %d.%m.%Y")
    try:
        codec = codecs.lookup("utf-8" if encoding == "auto" else encoding).name
    except LookupError as error:
        known = "auto, or an encoding that Python knows, such as latin-1, utf-16 or cp949"
        raise ConfigError("encoding", encoding, expected=known) from error
    format = Format([str(word) for word in missing], codec, decimal, dates)
    format.separator = separator_of(file, format)
    return format


def require_columns(frame: pl.DataFrame, named: Mapping[str, Sequence[str] | None]) -> None:
    """Raise a `ConfigError` of the first column, named by a key, that the file has not."""
    for key, names in named.items():
        for name in names or ():
            if name not in frame.columns:
                expected = f"one of the columns {', '.join(frame.columns)}"
                raise ConfigError(key, name, expected=expected, choices=frame.columns)


def find_targets(frame: pl.DataFrame, targets: Sequence[str], task: str, format: Format) -> list[Column]:
    """Return the rules of the targets: one category whose words are the classes, or numbers.

    Text, true and false, and few whole numbers are taken for classes where the task is "auto".
    """
    every = torch.ones(len(frame), dtype=torch.bool).numpy()
    rules = find_rules(frame, frame.columns, every, (), format)
    for name in targets:
        if isinstance(rules[name], Unusable):
            raise ConfigError("target", name, expected=f"values that can be read, but {rules[name]}")
    columns = [rule for rule in (rules[name] for name in targets) if isinstance(rule, Column)]
    for column in columns:
        if column.kind == "number":
            column.fit_marks(frame[column.name])
    if task == "auto":
        task = guess_task(columns, frame)
    if task == "regression":
        return [c if c.kind in ("number", "truth") else Column(c.name, "number") for c in columns]
    if len(targets) > 1:
        raise ConfigError("target", list(targets), expected="one column of classes; several must be numbers")
    return [Column(targets[0], "category", words=find_classes(frame[targets[0]]))]


def guess_task(targets: Sequence[Column], frame: pl.DataFrame) -> Literal["classification", "regression"]:
    """Take text, true and false, and few whole numbers for classes, and everything else for values."""
    rule = targets[0]
    if len(targets) > 1 or rule.kind == "date":
        return "regression"
    if rule.kind != "number":
        return "classification"
    numbers = rule.read(frame[rule.name]).drop_nulls()
    few = numbers.n_unique() <= FEW
    return "classification" if few and bool((numbers == numbers.round(0)).all()) else "regression"


def find_classes(column: pl.Series) -> list[str]:
    """Return the names of the classes, in the order of their numbers or of the alphabet."""
    words = as_words(column.drop_nulls()).unique().sort()
    numbers = as_numbers(words)
    if not numbers.has_nulls():
        words = words.gather(numbers.arg_sort())
    classes = words.to_list()
    if {word.lower() for word in classes} == set(TRUTHS):  # however each of them is written
        classes = [next(word for word in classes if word.lower() == truth) for truth in TRUTHS]
    if len(classes) < 2:
        only = classes[0] if classes else "no value"
        raise ConfigError("target", column.name, expected=f"at least two classes, but every row has {only}")
    require(len(classes) <= 10_000, "target", column.name, f"classes, not {len(classes):,} different values")
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
        values: targets of each file, as of `to_targets`, by its key.
    """
    parts = [torch.full((len(targets),), KEYS.index(key)) for key, targets in values.items()]
    if split is not None:
        parts[0] = read_split(frame, split)
    known, part_of = are_known(torch.cat(list(values.values()))), torch.cat(parts)
    rows = {
        name: (known & (part_of == SPLITS[name])).nonzero().flatten() for name in ("train", "val", "test")
    }
    if len(rows["train"]) == 0:
        raise ConfigError("target", expected="rows to train on, but none has a target")
    return rows


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
