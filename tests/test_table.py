"""data=table: what is understood of a person's own file, and what is said of one that can not be used."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import sklearn.datasets
import torch
from conftest import Run

from descent.data.named_path import NamedPath
from descent.data.samples import FromSamples
from descent.data.table.columns import Column, as_values, to_inputs
from descent.data.table.encoder import Encoder
from descent.data.table.files import Format, cut_at_rows
from descent.data.table.fitting import find_rules, fit_columns
from descent.data.table.table import table
from descent.data.table.table_reader import TableReader
from descent.errors import ConfigError
from descent.inference import load

SETTINGS: dict[str, Any] = {
    "task": "auto",
    "columns": None,
    "exclude": [],
    "categories": [],
    "missing": ["", "NA"],
    "max_categories": 100,
    "decimal": "auto",
    "dates": "auto",
    "encoding": "auto",
    "split": None,
    "val_path": None,
    "test_path": None,
    "batch_size": 16,
    "eval_batch_size": 64,
    "val_fraction": 0.1,
    "test_fraction": 0.1,
    "seed": 0,
    "label_noise": 0.0,
    "fold": None,
    "folds": 5,
}


def data_of(path: Path | str, target: str | list[str], **settings: Any) -> FromSamples:
    """Return the data of a table, with settings in place of those of `SETTINGS`."""
    return FromSamples(table, path=str(path), target=target, **{**SETTINGS, **settings})


def bundled(name: str, path: Path) -> Path:
    """A table that comes with scikit-learn, with the names of its classes, as a CSV."""
    data = getattr(sklearn.datasets, f"load_{name}")()
    frame = pl.DataFrame(data.data, schema=[str(n) for n in data.feature_names])
    frame.with_columns(kind=pl.Series([str(data.target_names[t]) for t in data.target])).write_csv(path)
    return path


def houses(path: Path, rows: int = 400) -> Path:
    """Prices with gaps, words and dates, as of the Californian census: area and town make the price."""
    chance = torch.Generator().manual_seed(0)
    lines = ["id,area,town,built,price,rooms,note"]
    for i in range(rows):
        area = 20 + 180 * float(torch.rand(1, generator=chance))
        town = ("Rome", "Oslo", "Bern", "")[int(torch.randint(4, (1,), generator=chance))]
        price = 1000 * area + 50_000 * (town == "Oslo")
        day = f"{2000 + i % 20}-0{1 + i % 9}-15"
        gap = "NA" if i % 10 == 3 else f"{area:.2f}"
        lines.append(
            f'{i},{gap},{town},{day},{"" if i == 5 else round(price)},{area / 30:.3f},"lot {i}, ""sold"""'
        )
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize(("name", "accuracy"), [("iris", 0.8), ("wine", 0.9), ("breast_cancer", 0.9)])
def test_a_bundled_table_trains_from_a_csv(run: Run, tmp_path: Path, name: str, accuracy: float) -> None:
    bundled(name, tmp_path / "flowers.csv")
    finished = run("data=table", "data.path=flowers.csv", "data.target=kind", "trainer.max_epochs=20")
    assert finished.code == 0, finished.err
    result = json.loads((tmp_path / "run/result.json").read_text())
    assert result["best"]["val/acc"] >= accuracy
    told = (tmp_path / "run/data.txt").read_text().splitlines()
    assert all(line in finished.out for line in told[:20])


def test_real_values_with_gaps_words_and_dates_are_learned(run: Run, tmp_path: Path) -> None:
    houses(tmp_path / "houses.csv")
    words = ("data.target=price", "data.exclude=[id,rooms]", "loss=mae", "optimizer.lr=0.01")
    finished = run("data=table", "data.path=houses.csv", *words, "trainer.max_epochs=30")
    assert finished.code == 0, finished.err
    for line in (
        "319 train, 40 val, 40 test; left out, without a target: 1",
        "date      built                from 2000-01-15 to 2019-",
        "left out  note                 319 different texts in 319 rows",
    ):
        assert line in finished.out
    result = json.loads((tmp_path / "run/result.json").read_text())
    assert result["test"]["test/r2"] > 0.6


def test_a_column_of_true_and_false_goes_the_whole_way(run: Run, tmp_path: Path) -> None:
    lines = [f"{i},{('True', 'False')[i % 3 == 0]},{('True', 'False')[i % 2]}" for i in range(60)]
    (tmp_path / "t.csv").write_text("\n".join(["n,flag,sold", *lines]) + "\n")
    assert run("data=table", "data.path=t.csv", "data.target=sold", "trainer.max_epochs=1").code == 0
    assert run("run=run", "input=t.csv", command="evaluate").code == 0
    for output, read in (("p.csv", pl.read_csv), ("p.parquet", pl.read_parquet)):
        finished = run("run=run", "input=t.csv", f"output={output}", command="predict")
        assert finished.code == 0, finished.err
        frame = read(tmp_path / output)
        assert frame.columns == ["predicted_sold", "p(False)", "p(True)"]
        assert set(frame["predicted_sold"].cast(pl.String).str.to_titlecase()) <= {"True", "False"}
    (tmp_path / "t.csv").rename(tmp_path / "gone.csv")  # an export does not need it
    finished = run("run=run", "format=torch_export", command="export")
    assert finished.code == 0, finished.err


@pytest.mark.parametrize(
    ("classes", "expected"),
    [
        (["0", "1"], pl.Int64),
        (["false", "true"], pl.Boolean),
        (["False", "True"], pl.String),
        (["01", "2"], pl.String),
    ],
)
def test_a_prediction_is_of_the_targets_own_type(classes: list[str], expected: pl.DataType) -> None:
    values = as_values(classes)
    assert values.dtype == expected
    assert values.cast(pl.String).to_list() == classes


def test_a_table_without_a_column_to_learn_from_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("y\n" + "a\nb\n" * 20)
    with pytest.raises(ConfigError, match=r"t.csv: expected a column to learn from beside y$"):
        data_of(tmp_path / "t.csv", "y")


def test_a_wide_table_is_shortened_on_the_terminal_alone(tmp_path: Path) -> None:
    frame = pl.DataFrame({f"x{i}": [i + row for row in range(40)] for i in range(300)})
    frame.with_columns(y=pl.Series(["a", "b"] * 20), none=pl.lit("")).write_csv(tmp_path / "t.csv")
    data = data_of(tmp_path / "t.csv", "y")
    assert data.preview.count("\n") == 304
    shown = data.shorten_preview()
    assert shown.splitlines()[-1] == "  …         283 number, 1 left out; data.txt has them all"
    assert shown.count("\n") == 21


def test_several_targets_are_learned_together(run: Run, tmp_path: Path) -> None:
    houses(tmp_path / "houses.csv")
    words = ("data.target=[price,rooms]", "data.columns=[area,town]", "loss=mse", "trainer.max_epochs=1")
    assert run("data=table", "data.path=houses.csv", *words).code == 0
    assert load(tmp_path / "run").names == ["price", "rooms"]


def test_parquet_gives_the_same_data_as_csv(tmp_path: Path) -> None:
    csv = houses(tmp_path / "houses.csv")
    pl.read_csv(csv, null_values=["NA"], try_parse_dates=True).write_parquet(tmp_path / "houses.parquet")
    one, two = (data_of(path, "price") for path in (csv, tmp_path / "houses.parquet"))
    assert torch.equal(one.take("train")[0].nan_to_num(-9), two.take("train")[0].nan_to_num(-9))
    assert torch.equal(one.take("test")[1], two.take("test")[1])


def test_rules_are_fitted_on_the_training_rows_alone(tmp_path: Path) -> None:
    rows = [
        f"{i},{word},{part},{i % 2}" for i, (word, part) in enumerate([("a", "train"), ("b", "train")] * 9)
    ]
    rows += ["1000000,new,val,0", "1000000,new,test,1"]
    (tmp_path / "t.csv").write_text("x,word,part,y\n" + "\n".join(rows) + "\n")
    data = data_of(tmp_path / "t.csv", "y", split="part")
    assert data.scaling.input_mean.tolist() == [8.5, 0, 0]  # ones and zeros stay what they are
    assert data.reader["columns"][1]["words"] == ["a", "b"]
    assert data.take("val")[0].tolist() == [[1_000_000, -1]]
    assert [len(rows) for rows in data.rows.values()] == [18, 1, 1]
    ((inputs, _),) = data.val_dataloader()
    assert torch.equal(inputs, data.scaling.scale(data.take("val")[0]))


def test_files_of_their_own_are_validation_and_test(tmp_path: Path) -> None:
    frame = pl.DataFrame({"x": range(30), "y": [i % 3 for i in range(30)]})
    for name, rows in (("train", frame[:20]), ("val", frame[20:24]), ("test", frame[24:])):
        rows.write_csv(tmp_path / f"{name}.csv")
    paths = {f"{name}_path": str(tmp_path / f"{name}.csv") for name in ("val", "test")}
    data = data_of(tmp_path / "train.csv", "y", **paths)
    assert sorted(data.take("train")[1].tolist()) == sorted(i % 3 for i in range(20))
    assert data.take("val")[1].tolist() == [2, 0, 1, 2]
    assert len(data.rows["test"]) == 6


@pytest.mark.parametrize(
    ("values", "task"),
    [
        (["a", "b"], "classification"),
        (["true", "false"], "classification"),
        (["1", "2"], "classification"),
        (["1.5", "2.5"], "regression"),
        ([str(i) for i in range(21)], "regression"),
    ],
)
def test_the_task_is_read_off_the_target(tmp_path: Path, values: list[str], task: str) -> None:
    rows = "\n".join(f"{i},{values[i % len(values)]}" for i in range(63))
    (tmp_path / "t.csv").write_text(f"x,y\n{rows}\n")
    assert data_of(tmp_path / "t.csv", "y").task == task


def test_a_missing_number_becomes_the_median_and_a_feature_of_its_own() -> None:
    frame, every, file = (
        pl.DataFrame({"x": [1.0, None, 3.0, 8.0], "w": ["a", "b", None, "a"]}),
        np.full(4, True),
        NamedPath("path", "t.csv"),
    )
    found = find_rules(frame, ["x", "w"], every, [], Format([]))
    rules, _, _ = fit_columns(frame, every, found, 10, file)
    inputs = to_inputs(rules, pl.DataFrame({"x": [None, 5.0], "w": ["z", None]}), file)
    assert Encoder(rules)(inputs).tolist() == [[3, 1, 0, 0, 0], [5, 0, 0, 0, 1]]


def test_a_date_becomes_days_and_its_place_in_the_year_and_the_week() -> None:
    features = Encoder([Column("d", "date")])(torch.tensor([[0.0], [7.0]]))
    assert features[:, 0].tolist() == [0, 7]
    torch.testing.assert_close(features[0, 1:], torch.tensor([0.0, 0, 0, 1, 1, 1]))
    torch.testing.assert_close(features[1, [2, 5]], torch.tensor([0.0, 1]), atol=1e-6, rtol=0)


def test_a_text_of_many_lines_is_never_cut(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("descent.data.table.files.BLOCK", 64)
    path = tmp_path / "t.csv"
    pl.DataFrame({"x": range(50), "note": ['two\nlines, "quoted"' * (i % 3) for i in range(50)]}).write_csv(
        path
    )
    with path.open("rb") as stream:
        stream.readline()
        assert len(list(cut_at_rows(stream))) > 10
    reader = TableReader(str(path), [Column("y", "number")], Format([]), [Column("x", "number")])
    blocks = [inputs for _, inputs in reader.read(NamedPath("input", str(path)))]
    assert torch.cat(blocks).flatten().tolist() == list(range(50))


@pytest.mark.parametrize(
    ("text", "settings", "line"),
    [
        ("", {}, "path=t.csv: expected a table, but the file is empty"),
        ("x,y\n", {}, "path=t.csv: expected rows beneath the header, but there are none"),
        ("x,y\n" + "1,2\n" * 12 + "big,3\n", {}, "row 13 has 'big'"),
        ("x,y\n1,2,3\n", {}, "row 1 has 3 values, the header 2"),
        ("x,y\n1,a\n2,a\n", {}, "target=y: expected at least two classes, but every row has a"),
        ("x,y\n1,0.5\n2,0.5\n", {}, "target=y: expected different values, but every row has 0.5"),
        ("x,yy\n1,a\n2,b\n", {}, "target=y: expected one of the columns x, yy; nearest: yy"),
        ("x,y\n1,a\n2,b\n", {"exclude": ["z"]}, "exclude=z: expected one of the columns x, y"),
        ("x,y\n1,a\n2,b\n", {"split": "x"}, "split=x: expected train, val or test, but row 1 has '1'"),
        ("x,y\n1,a\n2,b\n", {"task": "regression"}, "number in each row of column y, but row 1 has 'a'"),
        ("x,y\n" + "1,a\n1,b\n" * 9, {}, "path=t.csv: expected a column to learn from beside y"),
    ],
)  # fmt: skip
def test_a_table_that_can_not_be_used_is_told_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, settings: dict[str, object], line: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("t.csv").write_text(text)
    with pytest.raises(ConfigError) as caught:
        data_of("t.csv", "y", **settings)
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_leaves_no_folder(run: Run, tmp_path: Path) -> None:
    houses(tmp_path / "houses.csv", 20)
    finished = run("data=table", "data.path=house.csv", "data.target=price")
    assert (finished.code, finished.out) == (2, "")
    assert finished.err == "data.path=house.csv: expected a file that exists; nearest: houses.csv\n"
    assert not (tmp_path / "run").exists()
