"""Training, evaluation and frames take the same numbers from a CSV or Parquet, and those that are meant."""

import csv
import gzip
import json
import unicodedata
from datetime import date, datetime
from inspect import signature
from itertools import product
from math import nan
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from tables import DEFAULTS
from torch import Tensor

from descent.data.named_path import NamedPath
from descent.data.samples import Samples
from descent.errors import ConfigError
from descent.table import files
from descent.table.reader import TableReader
from descent.table.table import table

ROWS = 60
SETTINGS = {name: DEFAULTS[name] for name in signature(table).parameters}


def read_table(path: Path | str, target: str | list[str], **settings: Any) -> Samples:
    """Return the samples of a table whose rows are all trained on, but for those given to another split."""
    samples = table(**{**SETTINGS, "path": str(path), "target": target, **settings})
    assert samples.fit is not None
    return samples.fit(samples, samples.rows, None)


def read_again(samples: Samples, path: Path) -> tuple[Tensor, Tensor]:
    """Return inputs and targets as evaluation reads them from a file, by what a checkpoint keeps as JSON."""
    reader = TableReader.from_description(json.loads(json.dumps(samples.reader)))
    classes = [] if samples.targets.is_floating_point() else list(samples.names)
    blocks = list(reader.read_with_targets(NamedPath("input", str(path)), classes))
    return torch.cat([inputs for inputs, _ in blocks]), torch.cat([targets for _, targets in blocks])


def same(one: Tensor, two: Tensor) -> None:
    """The same numbers, to the bit."""
    torch.testing.assert_close(one, two, equal_nan=True, rtol=0, atol=0)


class Case:
    """A column as a CSV and as Parquet have it, and the numbers that both are."""

    def __init__(self, texts: list[str], values: Any, numbers: Any = None, mark: str = ",", **settings: Any):
        self.texts, self.values, self.numbers = texts, values, numbers or values
        self.mark, self.settings = mark, settings


D = [date(1998, 6, 12), date(2020, 3, 28), date(2020, 1, 13)]
DAYS = [897609600, 1585353600, 1578873600]
T = [datetime(1998, 6, 12, 1, 2, 3), datetime(2020, 3, 28, 23, 59, 59, 250_000), datetime(2020, 1, 13)]
TIMES = [897613323, 1585439999.25, 1578873600]
WORDS = ['two\nlines,\n\n"so"', "x;y", "x;y"]
COLUMNS = {
    "numbers": Case(
        ["-2", "+3", " 40", ".25", "-1.", "4.3e-320", "-3e100"], [-2, 3, 40, 0.25, -1, 4.3e-320, -3e100]
    ),
    "decimal commas": Case(["1,5", "2,25", "-3"], [1.5, 2.25, -3], None, ";", decimal="comma"),
    "Unix seconds": Case(["1700000000", "1700000001"], [1_700_000_000, 1_700_000_001]),
    "no number": Case(["1", "", "?", "-999.0"], [1.0, None, None, None], missing=["?", "-999"]),
    "true and false": Case(["true", "FALSE", "True", ""], [True, False, True, None]),
    "dates": Case(["1998-06-12", "2020/3/28", ""], [*D[:2], None], [*DAYS[:2], None]),
    "times": Case(["1998-06-12 03:02:03+02:00", "2020-03-28T23:59:59.25Z", "2020-01-13"], T, TIMES),
    "days first": Case(["12.6.1998", "28/03/2020", "13-01-2020 00:00"], D, DAYS, dates="day_first"),
    "months first": Case(["6/12/1998", "03/28/2020 00:00", "01/13/2020"], D, DAYS, dates="month_first"),
    "a form": Case(["12 Jun 98", "28 Mar 20", "13 Jan 20"], D, DAYS, dates="%d %b %y"),
    "eight digits": Case(["19980612", "20200328"], [19980612, 20200328], DAYS[:2], dates="%Y%m%d"),
    "words and gaps": Case([" b ", "", "NA", "b"], ["b", None, None, "b"], [0, 1, 1, 0]),
    "quoted words": Case(WORDS, WORDS, [1, 0, 0]),
    "numbers that are names": Case(["00501", "94", "94"], ["00501", "94", "94"], [1, 0, 0], categories=["x"]),
    "names that pandas made decimals": Case(["1.0", "2.0", "2.0"], [1, 2, 2], [1, 0, 0], categories=["x"]),
}


def write(case: Case, folder: Path, targets: list[str], typed: list[Any]) -> tuple[Path, Path]:
    """Write 60 rows of the column as CSV and as Parquet, with a whole number beside it and a target."""
    width, last = len(case.texts), len(targets)
    with (folder / "t.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, delimiter=case.mark)
        writer.writerow(["x", "n", "y"])
        writer.writerows([case.texts[i % width], i, targets[i // 2 % last]] for i in range(ROWS))
    x = pl.Series(case.values, strict=False).gather([i % width for i in range(ROWS)])
    frame = pl.DataFrame({"x": x, "n": range(ROWS), "y": [typed[i // 2 % last] for i in range(ROWS)]})
    frame.write_parquet(folder / "t.parquet")
    return folder / "t.csv", folder / "t.parquet"


@pytest.mark.parametrize("name", COLUMNS)
def test_a_column_is_the_same_numbers_ever_after(tmp_path: Path, monkeypatch: Any, name: str) -> None:
    case = COLUMNS[name]
    paths = write(case, tmp_path, ["no", "yes"], ["no", "yes"])
    meant = [nan if v is None else float(v) for v in case.numbers]
    expected = torch.tensor([meant[i % len(meant)] for i in range(ROWS)], dtype=torch.float64)
    of_csv, of_parquet = (read_table(path, "y", **case.settings) for path in paths)
    assert [column["name"] for column in of_csv.reader["columns"]] == ["x", "n"], of_csv.preview
    same(of_csv.inputs[:, 0], expected)
    same(of_parquet.inputs, of_csv.inputs)
    monkeypatch.setattr(files, "BLOCK", 256)  # in many blocks
    for samples, path in product((of_csv, of_parquet), paths):
        inputs, targets = read_again(samples, path)
        same(inputs, samples.inputs)
        same(targets, samples.targets)
    text = pl.read_csv(paths[0], infer_schema=False, separator=case.mark)
    same(TableReader.from_description(of_csv.reader).read_frame(text)[1], of_csv.inputs)


NEAR = [1700000000.1, 1700000000.2]
TARGETS: dict[str, tuple[list[str], list[Any], list[Any]]] = {
    "TRUE and False": (["TRUE", "False"], [True, False], [1, 0]),
    "ones and zeros with points": (["1.0", "0.0"], [1.0, 0.0], [1, 0]),
    "numbers in their order": (["10", "9", "2"], [10, 9, 2], [2, 1, 0]),
    "words with gaps": (["b", "a", ""], ["b", "a", None], [1, 0, None]),
    "values": (["1.5", "2e3", ""], [1.5, 2000.0, None], [1.5, 2000.0, None]),
    "values near each other": ([f"{value}" for value in NEAR], NEAR, NEAR),
}


@pytest.mark.parametrize("name", TARGETS)
def test_a_target_is_the_same_in_training_and_ever_after(tmp_path: Path, name: str) -> None:
    texts, typed, meant = TARGETS[name]
    paths = write(Case(["1", "2", "3"], [1, 2, 3]), tmp_path, texts, typed)
    expected = [meant[i // 2 % len(meant)] for i in range(ROWS)]
    known = torch.tensor([float(value) for value in expected if value is not None], dtype=torch.float64)
    for trained, path in product(paths, paths):
        samples = read_table(trained, "y")
        same(samples.targets[samples.rows["train"]].double().flatten(), known)
        same(read_again(samples, path)[1].double().flatten(), known)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "latin-1", "utf-16", "utf-16-le", "cp949"])
def test_text_in_another_encoding_is_the_same_text(tmp_path: Path, encoding: str) -> None:
    word = "가나" if encoding == "cp949" else "Zürich"
    lines = ["town,n,y", *(f"{(word, 'Bern')[i % 2]},{i},{i // 2 % 2}" for i in range(ROWS))]
    (tmp_path / "t.csv").write_bytes("\n".join(lines).encode(encoding))
    if encoding in ("latin-1", "utf-16-le", "cp949"):
        with pytest.raises(ConfigError, match=r"^[^\n]*data\.encoding"):
            read_table(tmp_path / "t.csv", "y")
    samples = read_table(tmp_path / "t.csv", "y", encoding=encoding)
    assert sorted(samples.reader["columns"][0]["words"]) == sorted([word, "Bern"])
    same(read_again(samples, tmp_path / "t.csv")[0], samples.inputs)


UNREAD = "may be a number or a date: data.decimal, data.dates or data.categories"
LEFT_OUT = [
    (["1,5", "2,5"], f"'1,5' {UNREAD}"),
    (["$1,234.50", "-$3.00", "$ 7"], UNREAD),
    (["31.12.2020", "1.1.2021 10:00"], UNREAD),
    (["Jun 12, 1998", "March 28 2020"], UNREAD),
    ([str(2**64 - 1), str(2**64 - 2)], "looks like an id: put it into data.categories or data.exclude"),
    ([*map(str, range(50)), *(f"stray {i}" for i in range(10))], "60 rows; data.missing lists words for no"),
]


@pytest.mark.parametrize(("texts", "hint"), LEFT_OUT)
def test_what_is_left_out_comes_with_what_would_read_it(tmp_path: Path, texts: list[str], hint: str) -> None:
    path, _ = write(Case(texts, texts), tmp_path, ["a", "b"], ["a", "b"])
    lines = read_table(path, "y", max_categories=10).preview.splitlines()
    assert any(line.startswith("  left out  x") and hint in line for line in lines)
    named = read_table(path, "y", categories=["x"], max_categories=60)
    assert named.reader["columns"][0]["kind"] == "category"


def csv_of(text: str, folder: Path) -> Path:
    (folder / "t.csv").write_bytes(text.encode())
    return folder / "t.csv"


WRITTEN = [
    "x,w,y\n1,a,p\n2,b,q\n3,a,p\n",
    "x,w,y\r\n1,a,p\r\n2,b,q\r\n3,a,p",
    "x,w,y\r1,a,p\r2,b,q\r3,a,p\r",
    "\n \nx,w,y\n\n1,a,p\n2,b,q\n   \n\n3,a,p\n\n\n",
    "x\tw\ty\n1\ta\tp\n2\tb\tq\n3\ta\tp\n",
    'x, "w", y\n1, "a", p\n2, "b", q\n3, "a", p\n',
    'x : "w":y\n1: a :p\n2:"b":q\n3:a:p\n',
]


@pytest.mark.parametrize("text", WRITTEN)
def test_a_csv_is_read_however_its_lines_are_written(tmp_path: Path, text: str) -> None:
    samples = read_table(csv_of(text, tmp_path), "y", separator=":" if ":" in text else None)
    assert samples.inputs.tolist() == [[1, 0], [2, 1], [3, 0]]
    assert samples.targets.tolist() == [0, 1, 0]
    (tmp_path / "t.csv.gz").write_bytes(gzip.compress(text.encode()))
    same(read_again(samples, tmp_path / "t.csv.gz")[0], samples.inputs)


def test_a_blank_line_is_a_row_only_within_a_file_of_one_column(tmp_path: Path, monkeypatch: Any) -> None:
    samples = read_table(csv_of("x,y\n1,1.5\n\n3,2.5\n,3.5\n\n", tmp_path), "y", task="values")
    assert samples.inputs[:, 0].nan_to_num(-1).tolist() == [1, 3, -1]
    monkeypatch.setattr(files, "BLOCK", 8)
    reader, path = TableReader.from_description(samples.reader), csv_of('x\n1\n\n\n3\n""\n\n', tmp_path)
    inputs = torch.cat([inputs for _, inputs in reader.read(NamedPath("input", str(path)))])
    assert inputs.flatten().nan_to_num(-1).tolist() == [1, -1, -1, 3, -1]


def test_a_name_may_have_several_lines_quotes_commas_dots_and_korean_letters(tmp_path: Path) -> None:
    names = ["width,\nin cm", 'the "height"', '5" pipe', "값.1 번"]
    header = '"width,\nin cm","the ""height""",5" pipe, 값.1 번,가격\n'
    rows = "".join(f"{i},{i % 7},{i % 5},{i % 3},{'ab'[i % 2]}\n" for i in range(ROWS))
    nfd = unicodedata.normalize("NFD", header)  # as macOS writes them, which looks the same
    samples = read_table(csv_of(nfd + rows, tmp_path), "가격")
    assert [column["name"] for column in samples.reader["columns"]] == names
    assert samples.preview.count("\n") == 3 + len(names)  # a line each
    same(read_again(samples, tmp_path / "t.csv")[0], samples.inputs)


BROKEN: dict[str, tuple[bytes, str]] = {
    "an empty file": (b"\n \n", r"a table, but it is empty"),
    "a header alone": (b"x,y\n\n", r"rows beneath the header, but there are none"),
    "too many values": (b"x,y\n1,a\n\n1,b,3\n", r"line 4 has 3 values, the header 2"),
    "a zip": (b"PK\x03\x04....", r"not a zip archive or a spreadsheet"),
    "damaged Parquet": (b"PAR1" + b"\xff" * 200 + b"PAR1", r"can be read \("),
    "an open quote": (b'x,y\n1,"a\n2,b\n', r"a CSV whose quotes end"),
    "a name twice": (b"x,x,y\n1,2,a\n", r"column with name 'x' has more than one occurrence"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_a_file_that_can_not_be_read_says_why_in_one_line(tmp_path: Path, name: str) -> None:
    content, reason = BROKEN[name]
    (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(ConfigError, match=reason) as caught:
        read_table(tmp_path / "t.csv", "y")
    assert str(caught.value).startswith(f"path={tmp_path}/t.csv: expected ")
    assert "\n" not in str(caught.value)
