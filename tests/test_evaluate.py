"""evaluate.py: the figures of the run itself, and a report that names what goes wrong."""

import json
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
from conftest import Run
from test_table import bundled, houses


def test_the_test_split_gives_the_figures_of_the_run(run: Run, tmp_path: Path) -> None:
    assert run("trainer.max_epochs=2").code == 0
    finished = run("run=run", command="evaluate")
    assert finished.code == 0, finished.err
    metrics = json.loads((tmp_path / "run/evaluation/metrics.json").read_text())
    test = json.loads((tmp_path / "run/result.json").read_text())["test"]
    assert {f"test/{n}": metrics[n] for n in ("loss", "acc")} == pytest.approx(test, rel=1e-5)
    matrix = metrics["confusion"]
    assert sum(map(sum, matrix)) == metrics["samples"] == 180
    assert sum(matrix[i][i] for i in range(10)) / 180 == pytest.approx(test["test/acc"], rel=1e-5)
    assert (tmp_path / "run/evaluation/report.txt").read_text() in finished.out
    picture = ElementTree.parse(tmp_path / "run/evaluation/picture.svg").getroot()
    assert len(picture.findall("{*}rect")) == 1 + 100
    assert run("run=run", "split=val", "weights=last", command="evaluate").code == 0
    assert (tmp_path / "run/evaluation-2").is_dir()


def test_residuals_of_a_table_and_of_another_file(run: Run, tmp_path: Path) -> None:
    houses(tmp_path / "houses.csv")
    words = ("data.target=[price,rooms]", "data.columns=[area,town]", "loss=mse", "trainer.max_epochs=2")
    assert run("data=table", "data.path=houses.csv", *words).code == 0
    finished = run("run=run", command="evaluate")
    assert finished.code == 0, finished.err
    metrics = json.loads((tmp_path / "run/evaluation/metrics.json").read_text())
    test = json.loads((tmp_path / "run/result.json").read_text())["test"]
    assert metrics["mae"] == pytest.approx(test["test/mae"], rel=1e-5)
    assert list(metrics["targets"]) == ["price", "rooms"]
    other = run("run=run", "input=houses.csv", command="evaluate")
    assert "399 samples: loss" in other.out

    text = (tmp_path / "houses.csv").read_text()
    (tmp_path / "houses.csv").write_text(re.sub(r"Oslo", "Nice", text))
    changed = run("run=run", command="evaluate")
    assert changed.code == 2
    assert "expected its data as it was in training, but its reader changed" in changed.err
    (tmp_path / "houses.csv").write_text(text.replace("price", "cost"))
    missing = run("run=run", "input=houses.csv", command="evaluate")
    assert missing.err == "input=houses.csv: expected the target's column price\n"


def test_a_class_that_the_run_does_not_know_is_named_with_its_row(run: Run, tmp_path: Path) -> None:
    bundled("iris", tmp_path / "iris.csv")
    assert run("data=table", "data.path=iris.csv", "data.target=kind", "trainer.max_epochs=1").code == 0
    (tmp_path / "new.csv").write_text((tmp_path / "iris.csv").read_text().replace("virginica", "rose"))
    finished = run("run=run", "input=new.csv", command="evaluate")
    assert finished.err == (
        "input=new.csv: expected one of the classes setosa, versicolor, virginica in column kind, but row 101"
        " has 'rose'\n"
    )
    assert not (tmp_path / "run/evaluation").exists()


def test_a_run_has_to_be_named(run: Run) -> None:
    finished = run(command="evaluate")
    assert (finished.code, finished.out) == (2, "")
    assert finished.err.startswith("run=null: expected the folder of a run, logs/…")
