"""evaluate.py: the figures of the run itself, and a report that names what goes wrong."""

import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
import yaml
from conftest import Run
from sklearn.metrics import classification_report, confusion_matrix
from test_table import bundled, houses
from torch import Tensor

from descent.data.samples import Samples
from descent.errors import ConfigError
from descent.inference import load
from descent.inference.evaluation import build_module, report_classes
from descent.inference.plots import plot_confusion, plot_values
from descent.module import Supervised


def test_the_test_split_gives_the_figures_of_the_run(run: Run, tmp_path: Path) -> None:
    assert run("trainer.max_epochs=2").code == 0
    finished = run("run=run", command="evaluate")
    assert finished.code == 0, finished.err
    metrics = json.loads((tmp_path / "run/evaluation/metrics.json").read_text())
    test = json.loads((tmp_path / "run/result.json").read_text())["test"]
    assert {f"test/{n}": metrics[n] for n in ("loss", "acc")} == pytest.approx(test, rel=1e-5)
    assert metrics["averages"]["accuracy"] == pytest.approx(test["test/acc"], rel=1e-5)
    matrix = metrics["confusion"]
    assert sum(map(sum, matrix)) == metrics["samples"] == 180
    assert sum(matrix[i][i] for i in range(10)) / 180 == pytest.approx(test["test/acc"], rel=1e-5)
    assert (tmp_path / "run/evaluation/report.txt").read_text() in finished.out
    plot = ElementTree.parse(tmp_path / "run/evaluation/plot.svg").getroot()
    words = [element.text for element in plot.iter("{http://www.w3.org/2000/svg}text")]
    assert {"true class", "predicted class", "9"} <= set(words)
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
    assert "its data as it was in training, but reader.columns[1].words[" in changed.err, changed.err
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


def test_a_run_whose_rules_have_other_words_than_classes_is_one_line(run: Run, tmp_path: Path) -> None:
    bundled("iris", tmp_path / "iris.csv")
    assert run("data=table", "data.path=iris.csv", "data.target=kind", "trainer.max_epochs=1").code == 0
    file = tmp_path / "run/checkpoints/best.ckpt"
    checkpoint = torch.load(file)
    checkpoint["data"]["reader"]["targets"][0]["words"].append("rose")
    torch.save(checkpoint, file)
    (tmp_path / "new.csv").write_text((tmp_path / "iris.csv").read_text().replace("virginica", "rose"))
    finished = run("run=run", "input=new.csv", command="evaluate")
    expected = "run=run: expected rules with its classes, setosa, versicolor, virginica"
    assert (finished.code, finished.err) == (2, f"{expected}\n"), finished.err


@pytest.mark.parametrize("classes", [2, 3, 30])
def test_the_table_of_classes_is_that_of_scikit_learn(classes: int) -> None:
    torch.manual_seed(classes)
    expected, predicted = torch.randint(1, classes, (200,)), torch.randint(classes, (200,))
    names = [f"class {index}" for index in range(classes)]
    details, text = report_classes(predicted, expected, names)
    arguments = {"labels": range(classes), "target_names": names, "zero_division": 0}
    theirs = classification_report(expected, predicted, output_dict=True, **arguments)
    assert details["confusion"] == confusion_matrix(expected, predicted, labels=range(classes)).tolist()
    ours = {**details["classes"], **details["averages"]}
    assert ours.keys() == theirs.keys()
    for name, values in theirs.items():
        assert ours[name] == pytest.approx(values)
    lines = classification_report(expected, predicted, digits=4, **arguments).splitlines()
    assert text.splitlines()[: len(lines)] == lines


def test_every_metric_and_the_loss_of_the_run_are_in_the_report(run: Run, tmp_path: Path) -> None:
    words = ("loss.weight=balanced", "loss.label_smoothing=0.1", "metrics=classification_full")
    assert run("trainer.max_epochs=1", *words).code == 0
    finished = run("run=run", command="evaluate")
    assert finished.code == 0, finished.err
    metrics = json.loads((tmp_path / "run/evaluation/metrics.json").read_text())
    test = json.loads((tmp_path / "run/result.json").read_text())["test"]
    assert len(test) > 5
    assert {f"test/{n}": metrics[n.removeprefix("test/")] for n in metrics if f"test/{n}" in test} == (
        pytest.approx(test, rel=1e-4)
    )


class Focal(torch.nn.Module):
    """A criterion of one's own, of logits and classes (Lin et al., 2017)."""

    def forward(self, logits: Tensor, classes: Tensor) -> Tensor:
        chance = logits.softmax(1).gather(1, classes.unsqueeze(1))
        return (-(1 - chance).square() * chance.log()).mean()


class Doubled(Supervised):
    """A module of one's own, whose loss needs more than outputs and targets."""

    def compute_loss(self, inputs: Tensor, outputs: Tensor, targets: Tensor) -> Tensor:
        return 2 * super().compute_loss(inputs, outputs, targets)


def blobs() -> Samples:
    """Data of one's own."""
    classes = torch.arange(200) % 2
    noise = torch.randn(200, 1, generator=torch.Generator().manual_seed(0))
    return Samples(classes.unsqueeze(1) + 0.3 * noise, classes, ["a", "b"])


def test_a_loss_data_and_a_module_of_ones_own_are_built_where_they_are_allowed(
    run: Run, tmp_path: Path
) -> None:
    words = (
        "data=samples",
        "data.source._target_=test_evaluate.blobs",
        "loss=mae",  # whose file has no further fields
        "loss._target_=test_evaluate.Focal",
        "module._target_=test_evaluate.Doubled",
        "trainer.max_epochs=1",
    )
    trained = run(*words)
    assert trained.code == 0, trained.err
    refused = run("run=run", command="evaluate")
    assert (refused.code, refused.err.count("\n")) == (2, 1)
    assert "_target_=test_evaluate." in refused.err
    finished = run("run=run", "allow=[test_evaluate]", command="evaluate")
    assert finished.code == 0, finished.err
    metrics = json.loads((tmp_path / "run/evaluation/metrics.json").read_text())
    test = json.loads((tmp_path / "run/result.json").read_text())["test"]
    assert {f"test/{n}": metrics[n] for n in ("loss", "acc")} == pytest.approx(test, rel=1e-4)
    config = yaml.safe_load((tmp_path / "run/config.yaml").read_text())
    crafted: tuple[dict[str, Any], ...] = (
        {"module": {}},
        {"metrics": {"acc": None}},
        {"metrics": {"acc": {"a": 1}}},
    )
    for change in crafted:
        (tmp_path / "run/config.yaml").write_text(yaml.safe_dump({**config, **change}))
        with pytest.raises(ConfigError, match="expected a m"):
            build_module(load(tmp_path / "run"), ["test_evaluate"])


def test_targets_that_a_run_can_not_be_held_against_are_one_line(run: Run, tmp_path: Path) -> None:
    assert run("trainer.max_epochs=1").code == 0
    assert run("data=diabetes", "loss=mse", "trainer.max_epochs=1", "folder=values").code == 0
    images, rows = np.zeros((3, 1, 8, 8), np.float32), np.ones((3, 10), np.float32)
    for name, folder, inputs, targets, expected in (
        ("classes", "run", images, [0, 12, 1], "expected classes from 0 to 9, but row 2 has 12"),
        ("lengths", "run", images, [0, 1], "expected a target each for 3 inputs, not 2"),
        ("none", "run", images[:0], np.zeros(0, int), "expected samples with targets, but there are none"),
        ("missing", "values", rows, [np.nan] * 3, "expected samples with targets, but there are none"),
        ("width", "values", rows, np.ones((3, 2)), "expected 1 target values a sample, not (2,)"),
        ("halves", "run", images, [0.0, 0.5, 1.0], "numbers of classes, one a sample, which are whole"),
        ("onehot", "run", images, np.eye(3), "numbers of classes, one a sample, which are whole"),
        ("words", "values", rows, ["a", "b", "c"], "expected numbers as targets, not str"),
        ("dates", "values", rows, np.zeros(3, "M8[D]"), "expected numbers as targets, not datetime64[D]"),
        ("one", "values", rows[:1], [100.0], "Needs at least two samples to calculate r2 score"),
    ):
        np.savez(tmp_path / f"{name}.npz", inputs=inputs, targets=np.asarray(targets))
        finished = run(f"run={folder}", f"input={name}.npz", command="evaluate")
        assert (finished.code, finished.err.count("\n")) == (2, 1), (name, finished.err)
        assert expected in finished.err
    assert not (tmp_path / "run/evaluation").exists()
    file = tmp_path / "run/config.yaml"
    partial = {"_target_": "descent.metrics.Accuracy", "_partial_": True}
    file.write_text(yaml.safe_dump({**yaml.safe_load(file.read_text()), "metrics": partial}))
    finished = run("run=run", command="evaluate")
    assert (finished.code, finished.err.count("\n")) == (2, 1), finished.err
    assert "expected metrics, each with its name" in finished.err


def test_targets_that_are_all_alike_have_no_r2(run: Run, tmp_path: Path) -> None:
    assert run("data=diabetes", "loss=mse", "trainer.max_epochs=1", "metrics=mae").code == 0
    np.savez(tmp_path / "alike.npz", inputs=np.ones((3, 10), np.float32), targets=[100.0] * 3)
    finished = run("run=run", "input=alike.npz", command="evaluate")
    assert finished.code == 0, finished.err
    metrics = json.loads((tmp_path / "run/evaluation/metrics.json").read_text())
    (values,) = metrics["targets"].values()
    assert values["R²"] is None
    assert values["MAE"] == pytest.approx(metrics["mae"], rel=1e-5)


@pytest.mark.parametrize("names", [["a", "b" * 300], [f"$\\frac{i}" for i in range(30)], ["名前", "<&>", ""]])
def test_a_plot_takes_names_of_any_kind(names: list[str]) -> None:
    matrix = torch.eye(len(names), dtype=torch.int64).tolist()
    values = torch.arange(3.0).unsqueeze(1).expand(3, len(names))
    for plot in (plot_confusion(matrix, names), plot_values(values, values, names)):
        assert ElementTree.fromstring(plot).tag.endswith("svg")


def test_a_plot_of_a_thousand_classes_is_small_and_the_same_each_time() -> None:
    names = [f"class {index}" for index in range(1000)]
    matrix = torch.eye(1000, dtype=torch.int64).tolist()
    assert len(plot_confusion(matrix, names)) < 200_000
    assert plot_confusion(matrix, names) == plot_confusion(matrix, names)


def test_a_run_has_to_be_named(run: Run) -> None:
    finished = run(command="evaluate")
    assert (finished.code, finished.out) == (2, "")
    assert finished.err.startswith("run=null: expected the folder of a run, logs/…")
