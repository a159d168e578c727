"""evaluate.py: the numbers of the run itself, and a report that names what goes wrong."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from conftest import Run
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support
from torch import Tensor
from torchmetrics.classification import MulticlassConfusionMatrix

from descent.data.samples import Samples
from descent.inference.evaluation import Pairs, draw, report
from descent.module import Supervised
from descent.task import Classes, Task, Values

HERE = "test_inference_evaluate"


def read(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the metrics of an evaluation, and of them those of the run's own test."""
    test = json.loads((folder / "result.json").read_text())["test"]
    metrics = json.loads((folder / "evaluation/metrics.json").read_text())
    return metrics, {name.removeprefix("test/"): value for name, value in test.items()}


def test_the_test_split_gives_the_numbers_of_the_run(run: Run, tmp_path: Path) -> None:
    words = ("loss.weight=balanced", "loss.label_smoothing=0.1", "metrics=classification_full")
    assert run("trainer.max_epochs=2", *words).code == 0
    finished = run("run=run", command="evaluate")
    assert finished.code == 0, finished.err
    metrics, test = read(tmp_path / "run")
    assert len(test) > 5
    assert {name: metrics[name] for name in test} == pytest.approx(test, rel=1e-5)
    assert f"180 samples: loss {test['loss']:.4f}, acc {test['acc']:.4f}" in finished.out
    assert sum(map(sum, metrics["confusion"])) == metrics["samples"] == 180
    files = "metrics.json, report.txt, confusion_matrix.svg"
    assert finished.out.endswith(f"Written to run/evaluation: {files}\n")
    assert (tmp_path / "run/evaluation/report.txt").read_text() in finished.out
    sizes = [
        run("run=run", "split=train", f"batch_size={size}", command="evaluate").out for size in (7, 1024)
    ]
    assert sizes[0].splitlines()[2] == sizes[1].splitlines()[2]
    best = json.loads((tmp_path / "run/result.json").read_text())["best"]
    seen = run("run=run", "split=val", "weights=best", command="evaluate").out
    assert f"loss {best['val/loss']:.4f}, acc {best['val/acc']:.4f}" in seen
    assert (tmp_path / "run/evaluation-4").is_dir()


def test_values_are_compared_in_their_own_units_and_what_is_undefined_is_named(
    run: Run, tmp_path: Path
) -> None:
    assert run("data=diabetes", "loss=mse", "trainer.max_epochs=2").code == 0
    finished = run("run=run", command="evaluate")
    assert finished.code == 0, finished.err
    metrics, test = read(tmp_path / "run")
    assert {name: metrics[name] for name in test} == pytest.approx(test, rel=1e-5)
    row = metrics["values"]["progression"]
    assert (row["MAE"], row["R²"]) == pytest.approx((test["mae"], test["r2"]), rel=1e-5)
    assert (tmp_path / "run/evaluation/predicted_against_true.svg").exists()
    np.savez(tmp_path / "alike.npz", inputs=np.ones((3, 10), np.float32), targets=[100.0] * 3)
    finished = run("run=run", "input=alike.npz", command="evaluate")
    assert "r2 not defined" in finished.out
    assert "r2 is not defined: the targets do not vary" in finished.out
    metrics = json.loads((tmp_path / "run/evaluation-2/metrics.json").read_text())
    row = metrics["values"]["progression"]
    assert (metrics["r2"], row["R²"], row["MAE"]) == (None, None, pytest.approx(metrics["mae"], rel=1e-5))
    assert run("run=run", "input=none.npz", command="evaluate").err.startswith("input=none.npz: expected ")


@pytest.mark.parametrize("classes", [2, 30])
def test_the_table_of_classes_is_that_of_scikit_learn(classes: int) -> None:
    torch.manual_seed(classes)
    expected, predicted = torch.randint(1, classes, (200,)), torch.randint(classes, (200,))
    metric = MulticlassConfusionMatrix(classes)
    metric.update(predicted, expected)
    details, text, pictures = make_report(metric, Classes([f"class {index}" for index in range(classes)]))
    arguments: Any = {"labels": range(classes), "zero_division": np.nan}
    precision, recall, _, support = precision_recall_fscore_support(expected, predicted, **arguments)
    rows = details["classes"].values()
    assert [row["precision"] for row in rows] == pytest.approx(precision, nan_ok=True)
    assert [row["recall"] for row in rows] == pytest.approx(recall, nan_ok=True)
    assert [row["samples"] for row in rows] == support.tolist()
    assert details["confusion"] == confusion_matrix(expected, predicted, labels=range(classes)).tolist()
    assert all(f"class {index} " in text for index in range(classes))
    assert list(pictures) == ["confusion_matrix.svg"]


def make_report(metric: Any, task: Task) -> tuple[dict[str, Any], str, dict[str, str]]:
    """Return the report on a metric that a module has filled."""
    module: Any = SimpleNamespace(test_metrics=SimpleNamespace(metrics={"_report": metric}))
    return report(module, SimpleNamespace(task=task, names=list(task.names)))  # type: ignore[arg-type]


def test_labels_have_a_report_too_until_their_data_changes(run: Run, tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(200, 3))
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", (x > 0).astype(np.float32))
    files = ("data=arrays", "data.inputs=x.npy", "data.targets=y.npy")
    assert run(*files, "data.task=labels", "data.names=[a,b,c]", "trainer.max_epochs=5").code == 0
    assert run("run=run", command="evaluate").code == 0
    metrics, test = read(tmp_path / "run")
    assert {name: metrics[name] for name in test} == pytest.approx(test, rel=1e-5)
    assert list(metrics["labels"]) == ["a", "b", "c"]
    assert all(row["recall"] > 0.6 for row in metrics["labels"].values())
    assert make_report(None, Task()) == ({}, "", {})

    np.save(tmp_path / "y.npy", (x > 0.1).astype(np.float32))
    changed = run("run=run", command="evaluate")
    expected = "run=run: expected the data as it was in training, but its fingerprint has changed; input=…"
    assert (changed.code, changed.err[: len(expected)]) == (2, expected)


class Doubled(Supervised):
    """A module of one's own, whose loss needs more than outputs and targets."""

    def compute_loss(self, inputs: Tensor, outputs: Tensor, targets: Tensor) -> Tensor:
        return 2 * super().compute_loss(inputs, outputs, targets)


def blobs() -> Samples:
    """Data of one's own."""
    classes = torch.arange(200) % 2
    noise = torch.randn(200, 1, generator=torch.Generator().manual_seed(0))
    return Samples(classes.unsqueeze(1) + 0.3 * noise, classes, ["a", "b"])


def test_data_and_a_module_of_ones_own_are_built_where_they_are_allowed(run: Run, tmp_path: Path) -> None:
    own = {"data.source": "blobs", "module": "Doubled"}
    words = ("data=samples", *(f"{key}._target_={HERE}.{name}" for key, name in own.items()))
    trained = run(*words, "trainer.max_epochs=1")
    assert trained.code == 0, trained.err
    refused = run("run=run", command="evaluate")
    assert (refused.code, refused.err.count("\n")) == (2, 1)
    assert f"_target_={HERE}." in refused.err
    finished = run("run=run", f"allow=[{HERE}]", command="evaluate")
    assert finished.code == 0, finished.err
    metrics, test = read(tmp_path / "run")
    assert {name: metrics[name] for name in test} == pytest.approx(test, rel=1e-4)


def test_targets_that_a_run_can_not_be_held_against_are_one_line(run: Run, tmp_path: Path) -> None:
    assert run("trainer.max_epochs=1").code == 0
    assert run("data=diabetes", "loss=mse", "trainer.max_epochs=1", "folder=dia").code == 0
    images, rows = np.zeros((3, 1, 8, 8), np.float32), np.ones((3, 10), np.float32)
    for folder, inputs, targets, expected in (
        ("run", images, [0, 12, 1], "expected class indices, one per sample, from 0 to 9"),
        ("run", images, [0, 1], "expected one target for each of 3 inputs, not 2"),
        ("dia", rows, [np.nan] * 3, "expected samples with targets, but there are none"),
        ("dia", rows, np.ones((3, 2)), "expected 1 target values per sample, not 2"),
        ("run", images, [0.0, 0.5, 1.0], "expected class indices"),
        ("dia", rows, ["a", "b", "c"], "expected numbers as targets, not str"),
    ):
        np.savez(tmp_path / "new.npz", inputs=inputs, targets=np.asarray(targets))
        finished = run(f"run={folder}", "input=new.npz", command="evaluate")
        assert (finished.code, finished.err.count("\n")) == (2, 1), finished.err
        assert expected in finished.err
    assert not (tmp_path / "run/evaluation").exists()


@pytest.mark.parametrize(
    "names", [["a", "b" * 300], [f"$\\frac{i}" for i in range(30)], ["名前", "<&>", " "]]
)
def test_a_picture_takes_names_of_any_kind_and_is_the_same_each_time(names: list[str]) -> None:
    size = len(names)
    matrix, values = torch.eye(size), torch.arange(3.0)[:, None, None].expand(3, 2, min(size, 3))
    confusion = MulticlassConfusionMatrix(size)
    for metric, found, shown in ((confusion, matrix, names), (Pairs(), values, names[:3])):
        picture = draw(metric, found, shown)
        assert ElementTree.fromstring(picture).tag.endswith("svg")
        assert draw(metric, found, shown) == picture


def test_r2_of_large_values_keeps_their_digits() -> None:
    pairs = Pairs("disable").set_dtype(torch.float64)
    truth = torch.tensor([[1.7e9], [1.7e9 + 1], [1.7e9 + 2]], dtype=torch.float64)
    pairs.update(truth + 0.5, truth)
    details, _, _ = make_report(pairs, Values(["seconds"]))
    assert details["values"] == {"seconds": {"R²": pytest.approx(0.625), "MAE": 0.5, "RMSE": 0.5}}
