"""data=table: what is understood of a person's own file, the same numbers in training and ever after."""

import csv
import gzip
import json
import unicodedata
from datetime import date, datetime
from itertools import product
from math import nan
from pathlib import Path
from random import Random
from typing import Any

import polars as pl
import pytest
import torch
import yaml
from conftest import ROOT, Run
from torch import Tensor

from descent.data.named_path import NamedPath
from descent.data.samples import FromSamples, Samples
from descent.errors import ConfigError
from descent.table import files
from descent.table.files import Format
from descent.table.reader import DAY, Column, Encoder, TableReader
from descent.table.table import table

ROWS = 60
DEFAULTS = yaml.safe_load((ROOT / "conf/data/table.yaml").read_text(encoding="utf-8"))
OWN = ("_target_", "source", "batch_size", "eval_batch_size", "drop_last", "val_fraction", "test_fraction",
       "seed", "label_noise", "fold", "folds")  # fmt: skip
SETTINGS = {name: value for name, value in DEFAULTS.items() if name not in OWN} | {"format": Format}


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


D = [date(1998, 6, 12), date(2020, 3, 28), date(2020, 1, 13)]
DAYS = [897609600, 1585353600, 1578873600]
T = [datetime(1998, 6, 12, 1, 2, 3), datetime(2020, 3, 28, 23, 59, 59, 250_000), datetime(2020, 1, 13)]
TIMES = [897613323, 1585439999.25, 1578873600]
NUMBERS = [-2, 3, 40, 0.25, -1, 4.3e-320, -3e100]
WORDS, CODES = ['two\nlines,\n\n"so"', "x;y", "x;y"], ["00501", "94", "94"]
# a column as a CSV and as Parquet have it, the numbers that both are (None: those of Parquet), and settings
COLUMNS: dict[str, tuple[list[str], list[Any], list[Any] | None, dict[str, Any]]] = {
    "numbers": (["-2", "+3", " 40", ".25", "-1.", "4.3e-320", "-3e100"], NUMBERS, None, {}),
    "decimal commas": (["1,5", "2,25", "-3"], [1.5, 2.25, -3], None, {"decimal": "comma"}),
    "Unix seconds": (["1700000000", "1700000001"], [1_700_000_000, 1_700_000_001], None, {}),
    "no number": (["1", "", "?", "-999.0"], [1.0, None, None, None], None, {"missing": ["?", "-999"]}),
    "true and false": (["true", "FALSE", "True", ""], [True, False, True, None], None, {}),
    "dates": (["1998-06-12", "2020/3/28", ""], [*D[:2], None], [*DAYS[:2], None], {}),
    "times": (["1998-06-12 03:02:03+02:00", "2020-03-28T23:59:59.25Z", "2020-01-13"], T, TIMES, {}),
    "days first": (["12.6.1998", "28/03/2020", "13-01-2020 00:00"], D, DAYS, {"dates": "day_first"}),
    "months first": (["6/12/1998", "03/28/2020 00:00", "01/13/2020"], D, DAYS, {"dates": "month_first"}),
    "a form": (["12 Jun 98", "28 Mar 20", "13 Jan 20"], D, DAYS, {"dates": "%d %b %y"}),
    "eight digits": (["19980612", "20200328"], [19980612, 20200328], DAYS[:2], {"dates": "%Y%m%d"}),
    "words and gaps": ([" b ", "", "NA", "b"], ["b", None, None, "b"], [0, 1, 1, 0], {}),
    "quoted words": (WORDS, WORDS, [1, 0, 0], {}),
    "numbers that are names": (CODES, CODES, [1, 0, 0], {"categories": ["x"]}),
    "names that pandas made decimals": (["1.0", "2.0", "2.0"], [1, 2, 2], [1, 0, 0], {"categories": ["x"]}),
}  # fmt: skip


def write(
    texts: list[str], values: list[Any], folder: Path, targets: list[str], typed: list[Any]
) -> list[Path]:
    """Write 60 rows of a column as CSV and as Parquet, with a whole number beside it and a target."""
    width, last = len(texts), len(targets)
    with (folder / "t.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, delimiter=";")
        writer.writerow(["x", "count", "y"])
        writer.writerows([texts[i % width], i, targets[i // 2 % last]] for i in range(ROWS))
    x = pl.Series(values, strict=False).gather([i % width for i in range(ROWS)])
    frame = pl.DataFrame({"x": x, "count": range(ROWS), "y": [typed[i // 2 % last] for i in range(ROWS)]})
    frame.write_parquet(folder / "t.parquet")
    return [folder / "t.csv", folder / "t.parquet"]


@pytest.mark.parametrize("name", COLUMNS)
def test_a_column_is_the_same_numbers_ever_after(tmp_path: Path, monkeypatch: Any, name: str) -> None:
    texts, values, numbers, settings = COLUMNS[name]
    paths = write(texts, values, tmp_path, ["no", "yes"], ["no", "yes"])
    meant = [nan if v is None else float(v) for v in numbers or values]
    expected = torch.tensor([meant[i % len(meant)] for i in range(ROWS)], dtype=torch.float64)
    of_csv, of_parquet = (read_table(path, "y", **settings) for path in paths)
    assert [column["name"] for column in of_csv.reader["columns"]] == ["x", "count"], of_csv.preview
    same(of_csv.inputs[:, 0], expected)
    same(of_parquet.inputs, of_csv.inputs)
    monkeypatch.setattr(files, "BLOCK", 256)  # in many blocks
    for samples, path in product((of_csv, of_parquet), paths):
        inputs, targets = read_again(samples, path)
        same(inputs, samples.inputs)
        same(targets, samples.targets)
    text = pl.read_csv(paths[0], infer_schema=False, separator=";")
    same(TableReader.from_description(of_csv.reader).read_frame(text)[1], of_csv.inputs)


NEAR, MANY = [1700000000.1, 1700000000.2], range(5, 26)
TARGETS: dict[str, tuple[list[str], list[Any], list[Any]]] = {
    "TRUE and False": (["TRUE", "False"], [True, False], [1, 0]),
    "ones and zeros with points": (["1.0", "0.0"], [1.0, 0.0], [1, 0]),
    "numbers in their order": (["10", "9", "2"], [10, 9, 2], [2, 1, 0]),
    "words with gaps": (["b", "a", ""], ["b", "a", None], [1, 0, None]),
    "values": (["1.5", "2e3", ""], [1.5, 2000.0, None], [1.5, 2000.0, None]),
    "more than twenty numbers": ([str(n) for n in MANY], [*MANY], [*MANY]),
    "values near each other": ([f"{value}" for value in NEAR], NEAR, NEAR),
}


@pytest.mark.parametrize("name", TARGETS)
def test_a_target_is_the_same_in_training_and_ever_after(tmp_path: Path, name: str) -> None:
    texts, typed, meant = TARGETS[name]
    paths = write(["1", "2", "3"], [1, 2, 3], tmp_path, texts, typed)
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
    samples = read_table(tmp_path / "t.csv", "y", encoding="auto" if encoding == "utf-16" else encoding)
    assert sorted(samples.reader["columns"][0]["words"]) == sorted([word, "Bern"])
    same(read_again(samples, tmp_path / "t.csv")[0], samples.inputs)


UNREAD = "may be a number or a date: data.decimal, data.dates or data.categories"
LEFT_OUT = [
    (["1,5", "2,5"], f"'1,5' {UNREAD}"),
    (["$1,234.50", "-$3.00", "$ 7"], UNREAD),
    (["31.12.2020", "1.1.2021 10:00"], UNREAD),
    (["Jun 12, 1998", "March 28 2020"], UNREAD),
    ([str(2**64 - 1), str(2**64 - 2)], "looks like an id: put it into data.categories or data.exclude"),
    ([*map(str, range(50)), *(f"stray {i}" for i in range(10))], "60 rows; data.missing lists marks"),
]


@pytest.mark.parametrize(("texts", "hint"), LEFT_OUT)
def test_what_is_left_out_comes_with_what_would_read_it(tmp_path: Path, texts: list[str], hint: str) -> None:
    path, _ = write(texts, texts, tmp_path, ["a", "b"], ["a", "b"])
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


def houses(path: Path) -> None:
    """Write 400 prices, which area and town make, with gaps, words and dates."""
    chance, lines = Random(0), ["id,area,town,built,price,rooms,note"]
    for i in range(400):
        area, town = chance.uniform(20, 200), chance.choice(["Rome", "Oslo", "Bern", ""])
        price = "" if i == 5 else round(1000 * area + 50_000 * (town == "Oslo"))
        gap, day = "NA" if i % 10 == 3 else f"{area:.2f}", f"{2000 + i % 20}-0{1 + i % 9}-15"
        lines.append(f'{i},{gap},{town},{day},{price},{area / 30:.3f},"lot {i}, ""sold"""')
    path.write_text("\n".join(lines) + "\n")


def test_real_values_with_gaps_words_and_dates_are_learned(run: Run, tmp_path: Path) -> None:
    houses(tmp_path / "houses.csv")
    words = ("data.exclude=[id,rooms]", "loss=mae", "optimizer.lr=0.01", "trainer.max_epochs=30")
    finished = run("data=table", "data.path=houses.csv", "data.target=price", *words)
    for line in (
        "319 train, 40 val, 40 test; left out, without a target: 1",
        "date      built                from 2000-01-15 to 2019-",
        "left out  note                 319 different texts in 319 rows",
    ):
        assert line in finished.out, finished.err
        assert line in (tmp_path / "run/data.txt").read_text()
    assert json.loads((tmp_path / "run/result.json").read_text())["test"]["test/r2"] > 0.6


def test_a_column_of_true_and_false_goes_the_whole_way(run: Run, tmp_path: Path) -> None:
    lines = [f"{i},{('True', 'False')[i % 3 == 0]},{('True', 'False')[i % 2]}" for i in range(60)]
    (tmp_path / "꽃, 2024.csv").write_text("\n".join(["n,flag,sold", *lines]) + "\n\n\n")
    words = ("data.path='꽃, 2024.csv'", "data.target=sold", "trainer.max_epochs=1")
    assert run("data=table", *words).code == 0
    assert run("run=run", "input='꽃, 2024.csv'", command="evaluate").code == 0
    finished = run("run=run", "input='꽃, 2024.csv'", "output=p.parquet", command="predict")
    assert finished.code == 0, finished.err
    frame = pl.read_parquet(tmp_path / "p.parquet")
    assert frame.columns == ["predicted_sold", "p(false)", "p(true)"]
    assert (len(frame), frame["predicted_sold"].dtype) == (60, pl.Boolean)  # no row for a blank line


def test_a_prediction_is_of_the_targets_own_type() -> None:
    reader = TableReader("", Format([]), [], [])
    for classes, kind in ((["0", "1"], pl.Int64), (["false", "true"], pl.Boolean), (["01", "2"], pl.String)):
        values = reader.name_classes(classes)
        assert (values.dtype, values.cast(pl.String).to_list()) == (kind, classes)


def test_rules_are_fitted_on_the_training_rows_alone(tmp_path: Path) -> None:
    rows = [f"{i},{('a', 'b', '')[i % 3]},train,{i % 2}\n" for i in range(18)]
    text = "x,word,part,y\n" + "".join(rows) + "1000000,new,Val,0\n,new,test,1\n"
    (tmp_path / "t.csv").write_text(text)
    samples = read_table(tmp_path / "t.csv", "y", split="part")
    number, word = samples.reader["columns"]
    assert (number["fill"], number["flagged"]) == (8.5, False)
    assert (word["words"], word["flagged"]) == (["a", "b"], True)
    assert samples.inputs[-2:].nan_to_num(-9).tolist() == [[1_000_000, -1], [-9, -1]]
    assert [rows.tolist() for rows in samples.rows.values()] == [[*range(18)], [18], [19]]
    assert "category  word                 2 words: a 6, b 6; 6 missing\n" in samples.preview


def test_files_of_their_own_are_validation_and_test(tmp_path: Path) -> None:
    frame = pl.DataFrame({"x": range(30), "y": [i % 3 for i in range(30)]})
    for name, rows in (("train", frame[:20]), ("val", frame[20:24]), ("test", frame[24:])):
        rows.write_csv(tmp_path / f"{name}.csv")
    paths = {f"{name}_path": str(tmp_path / f"{name}.csv") for name in ("val", "test")}
    samples = read_table(tmp_path / "train.csv", "y", **paths)
    assert samples.rows["val"].tolist() == [20, 21, 22, 23]
    assert len(samples.rows["test"]) == 6
    frame[20:24].with_columns(x=pl.lit("big")).write_csv(tmp_path / "val.csv")
    with pytest.raises(ConfigError, match=r"^val_path=.*val\.csv: expected a number in each row of column x"):
        read_table(tmp_path / "train.csv", "y", **paths)


@pytest.mark.parametrize(("yes", "no"), [("1", "0"), ("1.0", "0.0"), ("true", "False")])
def test_columns_of_yes_or_no_are_not_taken_for_values_in_silence(tmp_path: Path, yes: str, no: str) -> None:
    rows = "".join(f"{i},{(yes, no)[i % 2]},{(no, no, yes, '')[i % 4]}\n" for i in range(40))
    (tmp_path / "t.csv").write_text("x,cat,dog\n" + rows)
    own = {name: value for name, value in DEFAULTS.items() if name != "_target_"}
    own |= {
        "source": table,
        "format": Format,
        "path": str(tmp_path / "t.csv"),
        "seed": 0,
        "fold": None,
        "folds": 5,
    }
    with pytest.raises(ConfigError, match=r"^task=auto: expected labels or values, because all targets are"):
        FromSamples(**{**own, "target": ["cat", "dog"]})
    labels = read_table(tmp_path / "t.csv", ["dog", "cat"], task="labels")
    assert labels.names == ["dog", "cat"]
    assert labels.targets[labels.rows["train"]][:4].tolist() == [[0, 1], [0, 0], [1, 1], [0, 1]]
    same(read_again(labels, tmp_path / "t.csv")[1], labels.targets[labels.rows["train"]])
    with pytest.raises(ConfigError, match=r"^task=labels: expected values"):
        FromSamples(**{**own, "target": ["x", "cat"], "task": "labels"})


def test_another_runs_rules_are_taken_over(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("w,x,y\n" + "a,1,p\nb,2,q\n" * 9)
    (tmp_path / "u.csv").write_text("new,x,w,y\n" + "7,5,c,p\n8,6,b,q\n" * 9)
    like = {"reader": read_table(tmp_path / "t.csv", "y").reader, "run": "old"}
    samples = read_table(tmp_path / "u.csv", "y")
    assert samples.fit
    fitted = samples.fit(samples, samples.rows, like)
    assert fitted.inputs[:2].tolist() == [[-1, 5], [1, 6]]
    assert "left out  new                  init_from=old did not learn from it" in fitted.preview
    samples = read_table(tmp_path / "u.csv", "y", columns=["new", "x"])
    assert samples.fit
    with pytest.raises(ConfigError, match="that init_from=old learned from; not learned from here: w"):
        samples.fit(samples, samples.rows, like)


def test_a_missing_number_becomes_the_median_and_a_feature_of_its_own() -> None:
    columns = [Column("x", "number", 3.0, True), Column("w", "category", flagged=True, words=["a", "b"])]
    reader = TableReader("", Format([]), [], columns)
    _, inputs = reader.read_frame(pl.DataFrame({"x": [None, 5.0, 1.0], "w": ["z", None, "b"]}))
    assert Encoder(columns)(inputs).tolist() == [[3, 1, 0, 0, 0], [5, 0, 0, 0, 1], [1, 0, 0, 1, 0]]
    assert reader.notes() == ["column w: 1 values were not seen in training"]


def test_a_date_becomes_seconds_and_its_place_in_the_year_the_week_and_the_day() -> None:
    features = Encoder([Column("d", "date")])(torch.tensor([[0.0], [7 * DAY], [-0.25 * DAY]]).double())
    assert features[:, 0].tolist() == [0, 7 * DAY, -0.25 * DAY]
    torch.testing.assert_close(features[0, 1:], torch.tensor([0.0, 0, 0, 1, 1, 1]).double())
    torch.testing.assert_close(features[1, [2, 5]], torch.tensor([0.0, 1]).double(), atol=1e-6, rtol=0)
    torch.testing.assert_close(features[2, [3, 6]], torch.tensor([-1.0, 0]).double(), atol=1e-6, rtol=0)


MISTAKES: list[tuple[str | bytes, dict[str, Any], str]] = [
    ("x,y\n" + "1,2\n" * 12 + "big,3\n", {}, "row 13 has 'big'; data.missing lists marks of missing values"),
    ("x,y\n1,a\n2,a\n", {}, "target=y: expected values to learn (a in every row)"),
    ("x,y\n1,\n2,\n", {}, "target=y: expected values to learn (no values)"),
    ("x,yy\n1,a\n2,b\n", {}, "target=y: expected one of the columns x, yy; nearest: yy"),
    ("x,y\n1,a\n2,b\n", {"encoding": "klingon"}, "t.csv: expected text in klingon (unknown encoding"),
    ("x,y\n1,a\n2,b\n", {"dates": "dayfirst"}, "nearest: day_first"),
    ("x:y\n1:a\n2:b\n", {}, "target=y: expected one of the columns x:y; data.separator sets the"),
    ("x,y\n1,a\n2,b\n", {"split": "x"}, "valid, validation, test in each row, not ['1']"),
    ("x,y\n1,a\n2,b\n", {"task": "values"}, "number in each row of column y, but row 1 has 'a'"),
    ("x,y\n" + "1,a\n1,b\n" * 9, {}, "t.csv: expected a column to learn from besides y; left out: x"),
    ("x,y\n1,inf\n2,0.5\n", {"task": "values"}, "a number in each row of column y, but row 1 has 'inf'"),
    ("\n \n", {}, "t.csv: expected a table, but it is empty"),
    ("x,y\n\n", {}, "t.csv: expected rows below the header, but there are none"),
    ("x,y\n1,a\n\n1,b,3\n", {}, "line 4 has 3 values, the header 2"),
    ("PK\x03\x04....", {}, "not a zip archive or a spreadsheet"),
    (b"PAR1" + b"\xff" * 200 + b"PAR1", {}, "can be read ("),
    ('x,y\n1,"a\n2,b\n', {}, "t.csv: expected a CSV whose quotes are closed"),
    ("x,x,y\n1,2,a\n", {}, "column with name 'x' has more than one occurrence"),
]


@pytest.mark.parametrize(("content", "settings", "line"), MISTAKES)
def test_a_mistake_is_one_line(
    tmp_path: Path, content: str | bytes, settings: dict[str, Any], line: str
) -> None:
    (tmp_path / "t.csv").write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(ConfigError) as caught:
        read_table(tmp_path / "t.csv", "y", **settings)
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)
