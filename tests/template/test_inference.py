"""predict.py, evaluate.py, export.py and `load`: what a run's folder alone can answer."""

import json
import os
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from subprocess import run as execute
from threading import Event
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import numpy as np
import polars as pl
import pytest
import torch
import yaml
from conftest import ROOT, Run, make_run
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support
from small import train_here
from torch import Tensor
from torchmetrics.classification import MulticlassConfusionMatrix

from descent.data.samples import Samples
from descent.errors import ConfigError
from descent.inference import Predictor, exporting, load
from descent.inference.evaluation import draw, report
from descent.inference.output import count_rows, open_output
from descent.module import Supervised
from descent.run.checkpoints import CheckpointFiles
from descent.task import Classes, Labels, Task

HERE = "test_inference"
UNITS = 1_700_000_000.0  # seconds, which float32 holds to 128


def write_arrays(folder: Path) -> None:
    """Write float64 inputs x.npy and targets y.npy, far from 0."""
    x = 1e9 + np.random.default_rng(0).normal(size=(200, 3))
    np.save(folder / "x.npy", x)
    np.save(folder / "y.npy", np.stack([UNITS + 0.1 * x.sum(1), -3.0 * x[:, 0]], 1))


@pytest.fixture(scope="module")
def made_digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    words = ("loss.weight=balanced", "loss.label_smoothing=0.1", "metrics=classification_full")
    return make_run(tmp_path_factory, *words, "trainer.max_epochs=2", "logger=none").folder / "run"


@pytest.fixture(scope="module")
def made_values(tmp_path_factory: pytest.TempPathFactory) -> Path:
    write_arrays(folder := tmp_path_factory.mktemp("arrays"))
    files = (f"data.inputs={folder}/x.npy", f"data.targets={folder}/y.npy", "data.names=[a,b]")
    words = ("data=arrays", *files, "model=linear", "loss=mse", "optimizer.lr=0.05", "trainer.max_epochs=40")
    return make_run(tmp_path_factory, *words, "logger=none").folder / "run"


@pytest.fixture
def digits(made_digits: Path, tmp_path: Path) -> Path:
    """The folder `run` of a run on digits."""
    return Path(shutil.copytree(made_digits, tmp_path / "run"))


@pytest.fixture
def values(made_values: Path, tmp_path: Path) -> Path:
    """The folder `run` of a run on what `write_arrays` writes, beside x.npy and y.npy."""
    write_arrays(tmp_path)
    return Path(shutil.copytree(made_values, tmp_path / "run"))


def read(folder: Path, number: str = "") -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the metrics of an evaluation, and of them those of the run's own test."""
    test = json.loads((folder / "result.json").read_text())["test"]
    metrics = json.loads((folder / f"evaluation{number}/metrics.json").read_text())
    return metrics, {name.removeprefix("test/"): value for name, value in test.items()}


# ---- load and predict.py -----------------------------------------------------------------------------------


def test_predictions_are_the_tasks_answers_to_scaled_raw_inputs(digits: Path, tmp_path: Path) -> None:
    images = np.random.default_rng(0).uniform(0, 16, (70, 1, 8, 8))
    np.save(tmp_path / "x.npy", images)
    model = load(digits)
    model.batch_size = 32
    frame = model.predict(tmp_path / "x.npy")
    expected = model.task.predict(model.model(model.scaling(torch.from_numpy(images)))).detach()
    assert frame.columns == ["predicted_class", *(f"p({digit})" for digit in range(10))]
    assert frame["predicted_class"].to_list() == list(map(str, expected.argmax(1).tolist()))
    assert frame.drop("predicted_class").to_numpy() == pytest.approx(expected.numpy(), abs=1e-6)
    assert model.predict(images).equals(frame)
    with pytest.raises(ConfigError, match=r"expected samples of shape \(1, 8, 8\)"):
        model.predict(images[:, :, :4])


def test_values_keep_the_digits_that_float32_would_lose(run: Run, values: Path, tmp_path: Path) -> None:
    finished = run("run=run", "input=x.npy", "output=out.csv", command="predict")
    assert (finished.code, finished.out) == (0, "200 rows in out.csv\n"), finished.err
    predicted = pl.read_csv(tmp_path / "out.csv")
    assert predicted.columns == ["predicted_a", "predicted_b"]
    assert np.abs(predicted.to_numpy() - np.load(tmp_path / "y.npy")).max() < 0.02
    assert run("run=run", "input=x.npy", "output=out.parquet", command="predict").code == 0
    assert pl.read_parquet(tmp_path / "out.parquet").equals(predicted)


@pytest.mark.parametrize(
    ("task", "shape", "columns"),
    [
        (Labels(["a", "b"]), (3, 2), ["p(a)", "p(b)"]),
        (Labels(["caf\udce9"]), (3, 1), ["p(caf\\udce9)"]),
        (Task(), (3, 2, 2), ["output_0", "output_1", "output_2", "output_3"]),
        (Task(["height"]), (3,), ["predicted_height"]),
    ],
)
def test_columns_are_called_by_the_tasks_names(
    task: Task, shape: tuple[int, ...], columns: list[str]
) -> None:
    run: Any = SimpleNamespace(data={"examples": torch.zeros(1, *shape[1:]), "reader": {"kind": "array"}})
    same: Any = torch.nn.Identity()
    assert Predictor(run, same, same, task, None).predict(torch.rand(shape)).columns == columns


def test_a_run_loads_in_plain_python_and_gives_what_training_gave(digits: Path, tmp_path: Path) -> None:
    images = torch.rand(5, 1, 8, 8) * 16
    np.save(tmp_path / "x.npy", images.numpy())
    code = (
        "import sys, torch\n"
        "from descent.inference import load\n"
        "model = load('run', 'last')\n"
        "print(model.predict('x.npy').columns[0], 'hydra' in sys.modules, 'omegaconf' in sys.modules)\n"
        "print([name for name in sys.modules if name.startswith(('descent.table', 'descent.images'))])\n"
        "torch.save(model(torch.load('x.pt')), 'out.pt')\n"
    )
    torch.save(images, tmp_path / "x.pt")
    call = [sys.executable, "-c", code]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    done = execute(call, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.stdout == "predicted_class False False\n[]\n", done.stderr
    torch.testing.assert_close(torch.load(tmp_path / "out.pt"), load(digits, "last")(images))


def test_the_last_weights_are_read_while_a_run_replaces_them(digits: Path) -> None:
    last, files, ended = digits / "checkpoints/last.ckpt", CheckpointFiles(digits), Event()
    checkpoint = files.load_checkpoint(last)

    def train() -> None:
        while not ended.is_set():
            files.save_checkpoint(checkpoint, last)

    with ThreadPoolExecutor(1) as pool:
        trained = pool.submit(train)
        try:
            for _ in range(30):
                load(digits, "last")
        finally:
            ended.set()
        trained.result()  # raises what `train` raised


def test_what_is_no_run_is_one_line(run: Run, digits: Path, tmp_path: Path) -> None:
    config, best = yaml.safe_load((digits / "config.yaml").read_text()), digits / "checkpoints/best.ckpt"
    whole = torch.load(best)
    state, data, misfit = whole["state_dict"], whole["data"], "weights, data and config that fit each other"
    wrong_kind, wrong_task = {"reader": {"kind": "fax"}}, {"task": {"_target_": "os.system", "names": []}}
    for checkpoint, expected in (
        ({"state_dict": state}, "a run whose data has a method describe(), as FromSamples does"),
        ({"state_dict": Path}, "only tensors and plain values; nothing in it was run"),
        ({**whole, "data": {**data, "input_shape": [1, 9, 9]}}, misfit),
        ({**whole, "data": {**data, **wrong_kind}}, "a run whose data comes from one of array, im"),
        ({**whole, "data": {**data, "reader": {"kind": "array"}}}, misfit),
        ({**whole, "data": {**data, **wrong_task}}, "allow=[os."),
    ):
        torch.save(checkpoint, best)
        finished = run("run=run", "input=x.npy", command="predict")
        assert (finished.code, finished.err.count("\n")) == (2, 1), finished.err
        assert expected in finished.err
    torch.save(whole, best)
    for node in ({"_target_": "os.system", "command": "x"}, {**config["model"], "hidden": [3]}):
        (digits / "config.yaml").write_text(yaml.safe_dump({**config, "model": node}))
        with pytest.raises(ConfigError, match=r"^(run|model)[^\n]*: expected [^\n]*$"):
            load(digits)
    shutil.rmtree(best.parent)
    with pytest.raises(ConfigError, match="there is no checkpoint"):
        load(digits)
    with pytest.raises(ConfigError, match=r"expected a run's folder, with config.yaml in it"):
        load(tmp_path)


def test_bad_words_and_arrays_are_one_line_and_leave_nothing(run: Run, digits: Path, tmp_path: Path) -> None:
    images = np.zeros((3, 1, 8, 8), np.float32)
    np.save(tmp_path / "x.npy", images)
    np.save(tmp_path / "large.npy", np.full((3, 1, 8, 8), 1e300))
    images[1, 0, 2, 3] = np.nan
    np.save(tmp_path / "nan.npy", images)
    for expected in (
        "keep=town: expected a column of the input",
        "output=null: expected ",
        "output=x.npy: expected a name that ends in .csv or .parquet",
        "input=null: expected a file or folder to predict for",
        "batch_size=0: expected a whole number of at least 1",
        "weights=first: expected one of best, last",
        "output=/proc/x.csv: expected a file that can be written",
        "input=nan.npy: expected finite numbers, but row 2 has one that is infinite or NaN",
        "input=large.npy: expected values for which the model returns finite numbers",
    ):
        word = expected.partition(":")[0].replace("town", "[town]")
        finished = run("run=run", "input=x.npy", word, command="predict")
        assert (finished.code, finished.err.count("\n")) == (2, 1), finished.err
        assert finished.err.startswith(expected)
    assert not [path for path in tmp_path.iterdir() if "csv" in path.name]


def test_only_a_regular_file_of_nobody_else_is_ever_replaced(tmp_path: Path) -> None:
    own = ("checkpoints/last.ckpt", "config.yaml", "metrics.csv", "result.json")
    (tmp_path / "checkpoints").mkdir()
    for name in ("file.csv", "input.csv", *own):
        (tmp_path / name).write_text("mine")
    os.link(tmp_path / "input.csv", tmp_path / "other_name.csv")
    refused = {
        **dict.fromkeys(("checkpoints", "/dev/null"), "a regular file, not a folder or a device"),
        **dict.fromkeys(("input.csv", "other_name.csv", *own), "a file other than the input"),
        **dict.fromkeys(("no/such.csv", "file.csv/x.csv"), "a folder that exists"),
        "file.csv": "a file that does not exist, or overwrite=true",
    }
    for name, expected in refused.items():
        with (
            pytest.raises(ConfigError, match=f"output=.*: expected {expected}"),
            open_output(str(tmp_path / name), name != "file.csv", tmp_path, str(tmp_path / "input.csv")),
        ):
            raise AssertionError(name)
    assert all((tmp_path / name).read_text() == "mine" for name in ("file.csv", "input.csv", *own))
    with open_output(str(tmp_path / "file.csv"), True, tmp_path) as stream:
        stream.write(b"new")
    assert (tmp_path / "file.csv").read_text() == "new"


def test_a_bar_knows_its_end_where_the_file_states_it(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((7, 2)))
    pl.DataFrame({"a": range(5)}).write_parquet(tmp_path / "x.parquet")
    (tmp_path / "bad.parquet").write_text("no")
    names = ("x.npy", "x.parquet", "x.csv", "bad.parquet", "")
    assert [count_rows(str(tmp_path / name)) for name in names] == [7, 5, None, None, 3]


# ---- evaluate.py -------------------------------------------------------------------------------------------


def test_each_split_gives_the_numbers_of_the_run(run: Run, digits: Path) -> None:
    finished = run("run=run", command="evaluate")
    assert finished.code == 0, finished.err
    metrics, test = read(digits)
    assert len(test) > 5
    assert {name: metrics[name] for name in test} == pytest.approx(test, rel=1e-5)
    assert f"180 samples: loss {test['loss']:.4f}, acc {test['acc']:.4f}" in finished.out
    assert sum(map(sum, metrics["confusion"])) == metrics["samples"] == 180
    files = "metrics.json, report.txt, confusion_matrix.svg"
    assert finished.out.endswith(f"Written to run/evaluation: {files}\n")
    assert (digits / "evaluation/report.txt").read_text() in finished.out
    sizes = [
        run("run=run", "split=train", f"batch_size={size}", command="evaluate").out for size in (7, 1024)
    ]
    assert sizes[0].splitlines()[2] == sizes[1].splitlines()[2]
    best = json.loads((digits / "result.json").read_text())["best"]
    seen = run("run=run", "split=val", "weights=best", command="evaluate").out
    assert f"loss {best['val/loss']:.4f}, acc {best['val/acc']:.4f}" in seen
    assert (digits / "evaluation-4").is_dir()


def test_values_are_compared_in_their_own_units_and_what_is_undefined_is_named(
    run: Run, values: Path, tmp_path: Path
) -> None:
    finished = run("run=run", command="evaluate")
    assert finished.code == 0, finished.err
    metrics, test = read(values)
    assert {name: metrics[name] for name in test} == pytest.approx(test, rel=1e-5)
    rows = metrics["values"].values()
    means = [np.mean([row[name] for row in rows]) for name in ("MAE", "R²")]
    assert means == pytest.approx([test["mae"], test["r2"]], rel=1e-5)
    assert (values / "evaluation/predicted_against_true.svg").exists()
    np.savez(tmp_path / "alike.npz", inputs=np.full((3, 3), 1e9), targets=np.full((3, 2), UNITS))
    finished = run("run=run", "input=alike.npz", command="evaluate")
    assert "r2 not defined" in finished.out
    assert "r2 is not defined: the targets do not vary" in finished.out
    metrics, _ = read(values, "-2")
    assert [metrics["r2"], *(row["R²"] for row in metrics["values"].values())] == [None] * 3
    assert run("run=run", "input=none.npz", command="evaluate").err.startswith("input=none.npz: expected ")


@pytest.mark.parametrize("classes", [2, 30])
def test_the_table_of_classes_is_that_of_scikit_learn(classes: int) -> None:
    torch.manual_seed(classes)
    expected, predicted = torch.randint(1, classes, (200,)), torch.randint(classes, (200,))
    metric = MulticlassConfusionMatrix(classes)
    metric.update(predicted, expected)
    module: Any = SimpleNamespace(test_metrics=SimpleNamespace(metrics={"_report": metric}))
    names = [f"class {index}" for index in range(classes)]
    model: Any = SimpleNamespace(task=Classes(names), names=names)
    details, text, pictures = report(module, model)
    arguments: Any = {"labels": range(classes), "zero_division": np.nan}
    precision, recall, _, support = precision_recall_fscore_support(expected, predicted, **arguments)
    rows = details["classes"].values()
    assert [row["precision"] for row in rows] == pytest.approx(precision, nan_ok=True)
    assert [row["recall"] for row in rows] == pytest.approx(recall, nan_ok=True)
    assert [row["samples"] for row in rows] == support.tolist()
    assert details["confusion"] == confusion_matrix(expected, predicted, labels=range(classes)).tolist()
    assert all(f"{name} " in text for name in names)
    assert list(pictures) == ["confusion_matrix.svg"]


def test_labels_have_a_report_too_until_their_data_changes(run: Run, tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(200, 3))
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", (x > 0).astype(np.float32))
    files = (f"data.inputs={tmp_path}/x.npy", f"data.targets={tmp_path}/y.npy", "data.names=[a,b,c]")
    train_here(tmp_path / "run", "data=arrays", *files, "data.task=labels", "trainer.max_epochs=5")
    assert run("run=run", command="evaluate").code == 0
    metrics, test = read(tmp_path / "run")
    assert {name: metrics[name] for name in test} == pytest.approx(test, rel=1e-5)
    assert list(metrics["labels"]) == ["a", "b", "c"]
    assert all(row["recall"] > 0.6 for row in metrics["labels"].values())

    np.save(tmp_path / "y.npy", (x > 0.1).astype(np.float32))
    changed = run("run=run", command="evaluate")
    expected = "run=run: expected the data as in training, or input=… (the samples have different values"
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


def test_targets_that_a_run_can_not_be_held_against_are_one_line(
    run: Run, made_values: Path, digits: Path, tmp_path: Path
) -> None:
    images, rows = np.zeros((3, 1, 8, 8), np.float32), np.ones((3, 3), np.float32)
    for folder, inputs, targets, expected in (
        (digits, images, [0, 12, 1], "expected class indices, one per sample, from 0 to 9"),
        (digits, images, [0, 1], "expected one target for each of 3 inputs, not 2"),
        (made_values, rows, [[np.nan] * 2] * 3, "expected samples with targets, but there are none"),
        (made_values, rows, [1.0] * 3, "expected 2 target values per sample, not 1"),
        (digits, images, [0.0, 0.5, 1.0], "expected class indices"),
        (made_values, rows, ["a", "b", "c"], "expected numbers as targets, not str"),
    ):
        np.savez(tmp_path / "new.npz", inputs=inputs, targets=np.asarray(targets))
        finished = run(f"run={folder}", "input=new.npz", command="evaluate")
        assert (finished.code, finished.err.count("\n")) == (2, 1), finished.err
        assert expected in finished.err
        assert not (folder / "evaluation").exists()


@pytest.mark.parametrize(
    "names", [["a", "b" * 300], [f"$\\frac{i}" for i in range(30)], ["名前", "<&>", " "]]
)
def test_a_picture_takes_names_of_any_kind_and_is_the_same_each_time(names: list[str]) -> None:
    values = torch.arange(3.0)[:, None, None].expand(3, 2, min(len(names), 3))
    for found, shown in ((torch.eye(len(names)), names), (values, names[:3])):
        picture = draw(found, shown)
        assert ElementTree.fromstring(picture).tag.endswith("svg")
        assert draw(found, shown) == picture


# ---- export.py ---------------------------------------------------------------------------------------------


def test_torch_export_takes_raw_rows_of_any_number(
    run: Run, values: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = run("run=run", "format=torch_export", "output=nowhere/m.pt2", command="export")
    assert (lost.code, lost.err.startswith("output=nowhere/m.pt2: expected a folder that exists")) == (
        2,
        True,
    )
    assert not (tmp_path / "nowhere").exists()
    finished = run("run=run", "format=torch_export", command="export")
    assert finished.code == 0, finished.err
    assert "run/model.pt2: torch.float64 inputs (3,), in batches of any size; on 16 samples" in finished.out
    model, files = load(values), {"model.json": ""}
    exported = torch.export.load(values / "model.pt2", extra_files=files).module()
    assert files["model.json"] == (values / "model.json").read_text()  # beside it, for programs without torch
    described = json.loads(files["model.json"])["outputs"]
    assert (described["names"], described["values"]) == (["a", "b"], "values in their own units")
    inputs = torch.from_numpy(np.load(tmp_path / "x.npy"))
    for batch in (inputs, inputs[:1], inputs[:7]):
        torch.testing.assert_close(exported(batch), model(batch), rtol=1e-12, atol=1e-5)
    (values / "model.json").write_text("mine")
    again = run("run=run", "format=torch_export", command="export")
    assert (again.code, "overwrite=true" in again.err) == (2, True)
    monkeypatch.setattr(exporting, "to_torch_export", lambda program, text: (b"", lambda x: model(x) + 0.01))
    with pytest.raises(ConfigError, match=r"expected outputs within 0.001 of the run's, not 0.0"):
        exporting.export(model, "torch_export", str(tmp_path / "other.pt2"), overwrite=False)
    assert not list(tmp_path.glob("other.*"))


@pytest.mark.parametrize("words", [("model=cnn",), ()], ids=["cnn", "values"])
def test_onnx_gives_the_same(run: Run, tmp_path: Path, values: Path, words: tuple[str, ...]) -> None:
    pytest.importorskip("onnxscript", reason="of the extra onnx")
    runtime = pytest.importorskip("onnxruntime", reason="of the extra onnx")
    if words:
        shutil.rmtree(values)
        train_here(values, *words, "trainer.max_epochs=1")
    finished = run("run=run", "output=m.onnx", command="export")
    assert finished.code == 0, finished.err
    session = runtime.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"])
    model = load(values)
    assert session.get_inputs()[0].shape[0] == session.get_outputs()[0].shape[0] == "batch"
    described = json.loads(session.get_modelmeta().custom_metadata_map["model"])
    assert described["inputs"]["shape"] == ["batch", *model.examples.shape[1:]]
    for size in (1, 33):
        inputs = model.examples[torch.arange(size) % len(model.examples)]
        found = torch.from_numpy(session.run(None, {"inputs": inputs.numpy()})[0])
        torch.testing.assert_close(found, model(inputs), rtol=1e-4, atol=1e-4)


def test_a_folder_for_the_hub_is_loaded_and_evaluated_without_its_run(
    run: Run, values: Path, made_values: Path, tmp_path: Path
) -> None:
    pytest.importorskip("safetensors", reason="of the extra hub")
    finished = run("run=run", "format=hub", "output=folder", command="export")
    assert finished.code == 0, finished.err
    folder, names = tmp_path / "folder", {"README.md", "config.json", "model.safetensors"}
    assert {path.name for path in folder.iterdir()} == names
    again = run("run=run", "format=hub", "output=folder", command="export")
    assert (again.code, "overwrite=true" in again.err) == (2, True)
    expected = load(values).predict(tmp_path / "x.npy")
    shutil.move(values, tmp_path / "gone")
    assert load(folder).predict(tmp_path / "x.npy").equals(expected)
    with pytest.raises(ConfigError, match=r"format=hub: expected no_such_package; `uv sync --extra hub`"):
        exporting.import_extra("hub", "no_such_package")
    card, test = (folder / "README.md").read_text(), json.loads((tmp_path / "gone/result.json").read_text())
    assert card.startswith("---\nlibrary_name: descent\ntags: [pytorch, lightning, values]\n---\n")
    assert f"- test/loss: {test['test']['test/loss']:.4g}" in card
    assert "160 train, 20 val, 20 test samples" in card
    config = json.loads((folder / "config.json").read_text())
    assert str(made_values.parents[1]) not in card + json.dumps(config)
    np.savez(tmp_path / "new.npz", inputs=np.load(tmp_path / "x.npy"), targets=np.load(tmp_path / "y.npy"))
    evaluated = run("run=folder", "input=new.npz", command="evaluate")
    assert "200 samples: loss" in evaluated.out, evaluated.err
    assert "does not contain the run's data" in run("run=folder", command="evaluate").err
    for content in ("{", "[]", json.dumps({**config, "model": {"_target_": "os.system", "command": "x"}})):
        (folder / "config.json").write_text(content)
        with pytest.raises(
            ConfigError, match=r"^[^\n]*: expected (a folder that export.py|a name that conf/)"
        ):
            load(folder)


def test_a_table_is_exported_from_its_raw_columns(tmp_path: Path) -> None:
    pytest.importorskip("descent.table.reader", reason="a room that may be taken out")
    rows = (
        f"{i},{'' if i % 9 == 0 else i % 7},{'abc'[i % 3]},20{i % 20:02d}-03-04,{i % 7 * 2.5}"
        for i in range(99)
    )
    (tmp_path / "houses.csv").write_text("\n".join(["id,area,town,built,price", *rows]))
    words = ("data=table", f"data.path={tmp_path}/houses.csv", "data.target=price", "trainer.max_epochs=1")
    train_here(tmp_path / "run", *words)
    exporting.export(load(tmp_path / "run"), "torch_export", None, overwrite=False)
    files = {"model.json": ""}
    torch.export.load(tmp_path / "run/model.pt2", extra_files=files)
    described = json.loads(files["model.json"])
    assert [c["name"] for c in described["reader"]["columns"]] == ["id", "area", "town", "built"]
    assert described["inputs"] == {"type": "float64", "shape": ["batch", 4]}
