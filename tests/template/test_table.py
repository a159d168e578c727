"""data=table: what is understood of a person's own file, and what is said of one that can not be used."""

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from conftest import Run
from tables import data_of, houses
from test_table_formats import read_again, read_table, same

from descent.errors import ConfigError
from descent.table.files import Format
from descent.table.reader import DAY, Column, Encoder, TableReader


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
    reader = TableReader("", [], Format([]), [])
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


@pytest.mark.parametrize(
    ("values", "names"),
    [
        ("a b", "a b"), ("true false", "false true"), ("10 9", "9 10"), ("1.5 2.5", "y"),
        (" ".join(map(str, range(21))), "y"),
    ],
)  # fmt: skip
def test_the_task_is_read_off_the_target(tmp_path: Path, values: str, names: str) -> None:
    rows = "\n".join(f"{i},{values.split()[i % len(values.split())]}" for i in range(63))
    (tmp_path / "t.csv").write_text(f"x,y\n{rows}\n")
    samples = read_table(tmp_path / "t.csv", "y")
    assert (samples.names, samples.targets.is_floating_point()) == (names.split(), names == "y")


@pytest.mark.parametrize(("yes", "no"), [("1", "0"), ("1.0", "0.0"), ("true", "False")])
def test_columns_of_yes_or_no_are_not_taken_for_values_in_silence(tmp_path: Path, yes: str, no: str) -> None:
    rows = "".join(f"{i},{(yes, no)[i % 2]},{(no, no, yes, '')[i % 4]}\n" for i in range(40))
    (tmp_path / "t.csv").write_text("x,cat,dog\n" + rows)
    with pytest.raises(ConfigError, match=r"^task=auto: expected labels or values, because all targets are"):
        data_of(tmp_path / "t.csv", ["cat", "dog"])
    labels = read_table(tmp_path / "t.csv", ["dog", "cat"], task="labels")
    assert labels.names == ["dog", "cat"]
    assert labels.targets[labels.rows["train"]][:4].tolist() == [[0, 1], [0, 0], [1, 1], [0, 1]]
    same(read_again(labels, tmp_path / "t.csv")[1], labels.targets[labels.rows["train"]])
    with pytest.raises(ConfigError, match=r"^task=labels: expected values"):
        data_of(tmp_path / "t.csv", ["x", "cat"], task="labels")


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
    reader = TableReader("", [], Format([]), columns)
    _, inputs = reader.read_frame(pl.DataFrame({"x": [None, 5.0, 1.0], "w": ["z", None, "b"]}))
    assert Encoder(columns)(inputs).tolist() == [[3, 1, 0, 0, 0], [5, 0, 0, 0, 1], [1, 0, 0, 1, 0]]
    assert reader.notes() == ["column w: 1 values are none of the words that training knew"]


def test_a_date_becomes_seconds_and_its_place_in_the_year_the_week_and_the_day() -> None:
    features = Encoder([Column("d", "date")])(torch.tensor([[0.0], [7 * DAY], [-0.25 * DAY]]).double())
    assert features[:, 0].tolist() == [0, 7 * DAY, -0.25 * DAY]
    torch.testing.assert_close(features[0, 1:], torch.tensor([0.0, 0, 0, 1, 1, 1]).double())
    torch.testing.assert_close(features[1, [2, 5]], torch.tensor([0.0, 1]).double(), atol=1e-6, rtol=0)
    torch.testing.assert_close(features[2, [3, 6]], torch.tensor([-1.0, 0]).double(), atol=1e-6, rtol=0)


MISTAKES: list[tuple[str, dict[str, Any], str]] = [
    ("x,y\n" + "1,2\n" * 12 + "big,3\n", {}, "row 13 has 'big'; data.missing lists words for no value"),
    ("x,y\n1,a\n2,a\n", {}, "target=y: expected values to learn (a in every row)"),
    ("x,y\n1,\n2,\n", {}, "target=y: expected values to learn (no values)"),
    ("x,yy\n1,a\n2,b\n", {}, "target=y: expected one of the columns x, yy; nearest: yy"),
    ("x,y\n1,a\n2,b\n", {"encoding": "klingon"}, "t.csv: expected text in klingon (unknown encoding"),
    ("x,y\n1,a\n2,b\n", {"dates": "dayfirst"}, "nearest: day_first"),
    ("x:y\n1:a\n2:b\n", {}, "target=y: expected one of the columns x:y; data.separator is what"),
    ("x,y\n1,a\n2,b\n", {"split": "x"}, "valid, validation, test in each row, not ['1']"),
    ("x,y\n1,a\n2,b\n", {"task": "values"}, "number in each row of column y, but row 1 has 'a'"),
    ("x,y\n" + "1,a\n1,b\n" * 9, {}, "t.csv: expected a column to learn from beside y; left out: x"),
    ("x,y\n1,inf\n2,0.5\n", {"task": "values"}, "a number in each row of column y, but row 1 has 'inf'"),
]


@pytest.mark.parametrize(("text", "settings", "line"), MISTAKES)
def test_a_mistake_is_one_line(tmp_path: Path, text: str, settings: dict[str, Any], line: str) -> None:
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_table(tmp_path / "t.csv", "y", **settings)
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)
