"""predict.py and `load`: rows in, rows out, with the model of a run's folder and nothing else."""

import os
import shutil
import sys
from pathlib import Path
from subprocess import run as execute
from threading import Event, Thread
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
import yaml
from conftest import ROOT, Run, make_run

from descent.errors import ConfigError
from descent.inference import Predictor, load
from descent.inference.output import count_rows, require_free
from descent.run.checkpoints import CheckpointFiles
from descent.task import Labels, Task, Values

UNITS = 1_700_000_000.0  # seconds, which float32 holds to 128


@pytest.fixture(scope="module")
def digits_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one epoch, for tests that only read it."""
    return make_run(tmp_path_factory, "trainer.max_epochs=1", "logger=none").folder / "run"


def test_predictions_are_the_tasks_answers_to_scaled_raw_inputs(digits_run: Path, tmp_path: Path) -> None:
    images = np.random.default_rng(0).uniform(0, 16, (70, 1, 8, 8))
    np.save(tmp_path / "x.npy", images)
    model = load(digits_run)
    model.batch_size = 32
    frame = model.predict(tmp_path / "x.npy")
    expected = model.task.predict(model.model(model.scaling(torch.from_numpy(images)))).detach()
    assert frame.columns == ["predicted_class", *(f"p({digit})" for digit in range(10))]
    assert frame["predicted_class"].to_list() == list(map(str, expected.argmax(1).tolist()))
    assert frame.drop("predicted_class").to_numpy() == pytest.approx(expected.numpy(), abs=1e-6)
    assert model.predict(images).equals(frame)
    with pytest.raises(ConfigError, match=r"expected samples of shape \(1, 8, 8\)"):
        model.predict(images[:, :, :4])


def test_values_keep_the_digits_that_float32_would_lose(run: Run, tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(300, 2))
    for name, array in (("x", x), ("y", UNITS + 0.1 * x.sum(1))):
        np.save(tmp_path / f"{name}.npy", array)
    words = ("data=arrays", "data.inputs=x.npy", "data.targets=y.npy", "data.names=[time]", "model=linear")
    assert run(*words, "loss=mse", "optimizer.lr=0.05", "trainer.max_epochs=20").code == 0
    finished = run("run=run", "input=x.npy", "output=out.csv", command="predict")
    assert (finished.code, finished.out) == (0, "300 rows in out.csv\n"), finished.err
    error = pl.read_csv(tmp_path / "out.csv")["predicted_time"].to_numpy() - (UNITS + 0.1 * x.sum(1))
    assert np.abs(error).max() < 0.02
    assert run("run=run", "input=x.npy", "output=out.parquet", command="predict").code == 0
    assert pl.read_parquet(tmp_path / "out.parquet").equals(pl.read_csv(tmp_path / "out.csv"))


@pytest.mark.parametrize(
    ("task", "shape", "columns"),
    [
        (Values(["a", "b"]), (3, 2), ["predicted_a", "predicted_b"]),
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


def test_a_run_loads_in_plain_python_and_gives_what_training_gave(digits_run: Path, tmp_path: Path) -> None:
    images = torch.rand(5, 1, 8, 8) * 16
    np.save(tmp_path / "x.npy", images.numpy())
    code = (
        "import sys, torch\n"
        "from descent.inference import load\n"
        f"model = load({str(digits_run)!r})\n"
        "print(model.predict('x.npy').columns[0], 'hydra' in sys.modules, 'omegaconf' in sys.modules)\n"
        "print([name for name in sys.modules if name.startswith(('descent.table', 'descent.images'))])\n"
        "torch.save(model(torch.load('x.pt')), 'out.pt')\n"
    )
    torch.save(images, tmp_path / "x.pt")
    call = [sys.executable, "-c", code]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    done = execute(call, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.stdout == "predicted_class False False\n[]\n", done.stderr
    torch.testing.assert_close(torch.load(tmp_path / "out.pt"), load(digits_run, "last")(images))


def test_the_last_weights_are_read_while_a_run_replaces_them(digits_run: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(digits_run, tmp_path / "run"))
    last, files, ended = copy / "checkpoints/last.ckpt", CheckpointFiles(copy), Event()
    checkpoint = files.load_checkpoint(last)

    def train() -> None:
        while not ended.is_set():
            files.save_checkpoint(checkpoint, last)

    thread = Thread(target=train)
    thread.start()
    try:
        for _ in range(30):
            load(copy, "last")
    finally:
        ended.set()
        thread.join()


def test_what_is_no_run_is_one_line(run: Run, tmp_path: Path, digits_run: Path) -> None:
    other = tmp_path / "other"
    (other / "checkpoints").mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"expected a run's folder, with config.yaml in it"):
        load(other)
    shutil.copy(digits_run / "config.yaml", other)
    with pytest.raises(ConfigError, match="there is no checkpoint"):
        load(other)
    whole = torch.load(digits_run / "checkpoints/best.ckpt")
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
        torch.save(checkpoint, other / "checkpoints/best.ckpt")
        finished = run("run=other", "input=x.npy", command="predict")
        assert (finished.code, finished.err.count("\n")) == (2, 1), finished.err
        assert expected in finished.err
    torch.save(whole, other / "checkpoints/best.ckpt")
    config = yaml.safe_load((digits_run / "config.yaml").read_text())
    for node in ({"_target_": "os.system", "command": "x"}, {**config["model"], "hidden": [3]}):
        (other / "config.yaml").write_text(yaml.safe_dump({**config, "model": node}))
        with pytest.raises(ConfigError, match=r"^(run|model)[^\n]*: expected [^\n]*$"):
            load(other)


def test_bad_words_and_arrays_are_one_line_and_leave_nothing(
    run: Run, tmp_path: Path, digits_run: Path
) -> None:
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
        finished = run(f"run={digits_run}", "input=x.npy", word, command="predict", timeout=30)
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
    }
    for name, expected in refused.items():
        with pytest.raises(ConfigError, match=f"output=.*: expected {expected}"):
            require_free(str(tmp_path / name), True, str(tmp_path), str(tmp_path / "input.csv"))
    require_free(str(tmp_path / "file.csv"), True, str(tmp_path))  # raises nothing
    with pytest.raises(ConfigError, match="overwrite=true"):
        require_free(str(tmp_path / "file.csv"), False, str(tmp_path))


def test_a_bar_knows_its_end_where_the_file_states_it(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((7, 2)))
    pl.DataFrame({"a": range(5)}).write_parquet(tmp_path / "x.parquet")
    (tmp_path / "bad.parquet").write_text("no")
    names = ("x.npy", "x.parquet", "x.csv", "bad.parquet", "")
    assert [count_rows(str(tmp_path / name)) for name in names] == [7, 5, None, None, 3]
