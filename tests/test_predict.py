"""predict.py and `load`: rows in, rows out, with the model of a run's folder and nothing else."""

import os
import shutil
import sys
from pathlib import Path
from subprocess import run as execute
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
import yaml
from conftest import ROOT, Run, make_run
from test_table import bundled, houses

from descent.data.table.table_reader import TableReader
from descent.errors import ConfigError
from descent.inference import load
from descent.inference.output import require_free


def test_rows_come_back_in_their_order_with_names_and_probabilities(run: Run, tmp_path: Path) -> None:
    bundled("iris", tmp_path / "iris.csv")
    assert run("data=table", "data.path=iris.csv", "data.target=kind", "trainer.max_epochs=20").code == 0
    words = ("run=run", "input=iris.csv", "output=out.csv", "keep=[kind]")
    finished = run(*words, command="predict")
    assert (finished.code, finished.out) == (0, "150 rows in out.csv\n"), finished.err
    frame, known = pl.read_csv(tmp_path / "out.csv"), pl.read_csv(tmp_path / "iris.csv")["kind"]
    assert frame.columns == ["kind", "predicted_kind", "p(setosa)", "p(versicolor)", "p(virginica)"]
    assert (frame["kind"] == known).all()
    assert (frame["predicted_kind"] == known).mean() > 0.85  # type: ignore[operator]
    assert frame[:, 2:].sum_horizontal().to_numpy() == pytest.approx(1, abs=1e-5)

    again = run(*words, command="predict")
    assert again.err == "output=out.csv: expected a file that does not exist, or overwrite=true\n"
    (tmp_path / "bad.csv").write_text((tmp_path / "iris.csv").read_text().replace("5.1", "five", 1))
    bad = run("run=run", "input=bad.csv", "output=bad_out.csv", command="predict")
    expected = (
        "input=bad.csv: expected a number in each row of column sepal length (cm), but row 1 has 'five'\n"
    )
    assert (bad.code, bad.err) == (2, expected)
    assert {p.name for p in tmp_path.iterdir() if "out.csv" in p.name} == {"out.csv"}


def test_values_are_in_the_targets_units_and_unseen_words_are_told(run: Run, tmp_path: Path) -> None:
    houses(tmp_path / "houses.csv")
    words = (
        "data.target=price",
        "data.exclude=[id]",
        "loss=mae",
        "optimizer.lr=0.01",
        "trainer.max_epochs=20",
    )
    assert run("data=table", "data.path=houses.csv", *words).code == 0
    text = (tmp_path / "houses.csv").read_text().replace("Bern", "Lima")
    (tmp_path / "new.csv").write_text(text)
    finished = run("run=run", "input=new.csv", "output=out.csv", "keep=[id,price]", command="predict")
    assert "column town: " in finished.out
    assert "values are none of the words that training knew" in finished.out
    frame = pl.read_csv(tmp_path / "out.csv")
    assert frame["id"].to_list() == list(range(400))
    assert pl.DataFrame(frame).select(pl.corr("price", "predicted_price")).item() > 0.8


def test_a_file_in_blocks_gives_what_it_gives_at_once(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    houses(tmp_path / "houses.csv")
    words = ("data.target=price", "loss=mae", "trainer.max_epochs=1")
    assert run("data=table", "data.path=houses.csv", *words).code == 0
    model = load(tmp_path / "run")
    at_once = model.predict(str(tmp_path / "houses.csv"))
    frame = pl.read_csv(tmp_path / "houses.csv", null_values=["NA"], try_parse_dates=True)
    columns = ["id", "area", "town", "built", "rooms"]
    assert model.predict(frame.select(columns)).equals(model.predict(frame))
    assert model.predict(frame).to_numpy() == pytest.approx(at_once.to_numpy(), rel=1e-5)
    frame.write_parquet(tmp_path / "houses.parquet")
    monkeypatch.setattr("descent.data.table.files.BLOCK", 1000)
    for name in ("houses.csv", "houses.parquet"):
        blocks = list(model.predict_blocks(str(tmp_path / name)))
        assert len(blocks) > 2
        assert pl.concat(blocks).to_numpy() == pytest.approx(at_once.to_numpy(), rel=1e-5)


def test_a_run_loads_without_conf_hydra_and_lightning_and_gives_what_training_gave(
    run: Run, tmp_path: Path
) -> None:
    assert run("trainer.max_epochs=1").code == 0
    images = torch.rand(5, 1, 8, 8) * 16
    np.save(tmp_path / "images.npy", images.numpy())
    shutil.copytree(ROOT / "src/descent", tmp_path / "elsewhere/descent")
    code = (
        "import sys\n"
        "from descent.inference import load\n"
        "model = load('run')\n"
        "print(model.predict('images.npy').columns[0], 'hydra' in sys.modules, 'lightning' in sys.modules)\n"
        "import torch, numpy\n"
        "torch.save(model(torch.from_numpy(numpy.load('images.npy'))), 'out.pt')\n"
    )
    environment = {"PYTHONPATH": str(tmp_path / "elsewhere")}
    done = execute(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "predicted_class False False\n", done.stderr
    model = load(tmp_path / "run", "last")
    torch.testing.assert_close(torch.load(tmp_path / "out.pt"), model(images))
    assert model.predict(images.numpy()).equals(model.predict(tmp_path / "images.npy"))


def test_a_checkpoint_of_something_else_is_told_in_one_line(run: Run, tmp_path: Path) -> None:
    (tmp_path / "other/checkpoints").mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"expected a run's folder, with config.yaml and checkpoints/"):
        load(tmp_path / "other")
    (tmp_path / "other/config.yaml").write_text("{data: {}, loss: {}, model: {}, module: {}}")
    with pytest.raises(ConfigError, match="there is no checkpoint"):
        load(tmp_path / "other")
    torch.save({"state_dict": {"weight": torch.zeros(1)}}, tmp_path / "other/checkpoints/best.ckpt")
    finished = run("run=other", "input=x.csv", command="predict")
    assert finished.code == 2
    expected = "run=other: expected a checkpoint of this template; best.ckpt is of something else ("
    assert finished.err.startswith(expected)
    torch.save({"state_dict": Path}, tmp_path / "other/checkpoints/best.ckpt")
    with pytest.raises(ConfigError, match="tensors and plain values alone, and nothing of it was run"):
        load(tmp_path / "other")


@pytest.fixture(scope="module")
def digits_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one epoch, for tests that only read it."""
    return make_run(tmp_path_factory, "trainer.max_epochs=1").folder / "run"


def test_classes_whose_counts_are_no_numbers_are_one_line(run: Run, tmp_path: Path, digits_run: Path) -> None:
    other = Path(shutil.copytree(digits_run, tmp_path / "other"))
    checkpoint = torch.load(other / "checkpoints/best.ckpt", weights_only=True)
    assert all(isinstance(count, int) for count in checkpoint["data"]["class_counts"])
    checkpoint["data"]["class_counts"] = ["a"] * 10
    torch.save(checkpoint, other / "checkpoints/best.ckpt")
    finished = run("run=other", command="evaluate")
    assert (finished.code, finished.err.count("\n")) == (2, 1), finished.err
    assert "its data's class_counts are no numbers" in finished.err


@pytest.mark.parametrize("kind", ["complex", "sparse"])
def test_weights_that_no_run_writes_are_one_line(
    run: Run, tmp_path: Path, digits_run: Path, kind: str
) -> None:
    other = Path(shutil.copytree(digits_run, tmp_path / "other"))
    checkpoint = torch.load(other / "checkpoints/best.ckpt", weights_only=True)
    for name, weight in checkpoint["state_dict"].items():
        changed = weight.to(torch.complex64) if kind == "complex" else weight.to_sparse()
        checkpoint["state_dict"][name] = changed
    torch.save(checkpoint, other / "checkpoints/best.ckpt")
    np.save(tmp_path / "x.npy", np.zeros((3, 1, 8, 8), np.float32))
    for command in ("predict", "evaluate"):
        finished = run("run=other", "input=x.npy", command=command)
        assert (finished.code, finished.err.count("\n")) == (2, 1), finished.err
        assert "its weights are not tensors" in finished.err


def test_arrays_that_hold_no_numbers_or_no_samples(run: Run, tmp_path: Path, digits_run: Path) -> None:
    images = np.zeros((3, 1, 8, 8), np.float32)
    np.save(tmp_path / "none.npy", images[:0])
    finished = run(f"run={digits_run}", "input=none.npy", command="predict")
    assert (finished.code, finished.out) == (0, "0 rows in predictions.csv\n"), finished.err
    assert pl.read_csv(tmp_path / "predictions.csv").shape == (0, 11)
    images[1, 0, 2, 3] = np.nan
    np.save(tmp_path / "nan.npy", images)
    finished = run(f"run={digits_run}", "input=nan.npy", "output=nan.csv", command="predict")
    line = "input=nan.npy: expected finite numbers, but row 2 has one that is infinite or NaN\n"
    assert (finished.code, finished.err) == (2, line)
    assert not (tmp_path / "nan.csv").exists()
    np.save(tmp_path / "large.npy", np.full((3, 1, 8, 8), 1e300))
    np.save(tmp_path / "dates.npy", np.zeros((3, 1, 8, 8), "M8[D]"))
    np.savez(tmp_path / "cut.npz", inputs=images)
    (tmp_path / "cut.npz").write_bytes((tmp_path / "cut.npz").read_bytes()[:300])
    os.mkfifo(tmp_path / "pipe.npy")
    (tmp_path / "text.csv").write_text("x\n1\n")
    for name, told in (
        ("large.npy", "expected finite numbers"),
        ("dates.npy", "expected numbers as inputs, not datetime64[D]"),
        ("cut.npz", "expected a NumPy file, .npy or .npz"),
        ("pipe.npy", "there is no regular file"),
        ("text.csv", "expected a NumPy file, .npy or .npz (it is of another format)"),
    ):
        finished = run(f"run={digits_run}", f"input={name}", "output=x.csv", command="predict", timeout=30)
        assert (finished.code, finished.err.count("\n")) == (2, 1), finished.err
        assert told in finished.err
    np.save(tmp_path / "other.npy", np.zeros((3, 1, 8, 8), ">f4"))
    assert run(f"run={digits_run}", "input=other.npy", "output=x.csv", command="predict").code == 0


def test_only_a_regular_file_that_is_not_the_input_is_ever_replaced(tmp_path: Path) -> None:
    for name in ("file.csv", "input.csv"):
        (tmp_path / name).write_text("mine")
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "link.csv").symlink_to(tmp_path / "file.csv")
    os.mkfifo(tmp_path / "pipe.csv")
    os.link(tmp_path / "input.csv", tmp_path / "other_name.csv")
    refused = {
        "folder.csv": "a file, not a folder",
        "link.csv": "a regular file, not a link, a pipe or a device",
        "pipe.csv": "a regular file, not a link, a pipe or a device",
        "input.csv": "another file than the input",
        "other_name.csv": "another file than the input",
        "no/such.csv": "a folder that exists",
        "file.csv/x.csv": "a folder that exists",
        "x" * 300 + ".csv": "a file that can be written",
    }
    for name, expected in refused.items():
        with pytest.raises(ConfigError, match=f"output=.*: expected {expected}"):
            require_free(str(tmp_path / name), True, str(tmp_path), str(tmp_path / "input.csv"))
    require_free(str(tmp_path / "file.csv"), True, str(tmp_path))  # raises nothing
    with pytest.raises(ConfigError, match="overwrite=true"):
        require_free(str(tmp_path / "file.csv"), False, str(tmp_path))
    with pytest.raises(ConfigError, match="a regular file"):
        require_free("/dev/null", True, str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    for name in ("checkpoints/best.ckpt", "config.yaml", "metrics.csv", "result.json"):
        (tmp_path / name).write_text("mine")
        with pytest.raises(ConfigError, match=r"output=.*: expected another file than those of the run"):
            require_free(str(tmp_path / name), True, str(tmp_path))
    assert (tmp_path / "file.csv").read_text() == "mine"


def test_bad_words_are_one_line(run: Run, tmp_path: Path, digits_run: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((1, 1, 8, 8), np.float32))
    for word, expected in (
        ("keep=[town]", "keep=town: expected a column of the input"),
        ("output=null", "output=null: expected a name that ends in .csv or .parquet"),
        ("output=x.npy", "output=x.npy: expected a name that ends in .csv or .parquet"),
        ("input=null", "input=null: expected a file or folder to predict for"),
        ("batch_size=0", "batch_size=0: expected a whole number of at least 1"),
        ("weights=first", "weights=first: expected one of best, last"),
        ("output=/proc/x.csv", "output=/proc/x.csv: expected a file that can be written"),
    ):
        finished = run(f"run={digits_run}", "input=x.npy", word, command="predict")
        assert (finished.code, finished.err.count("\n")) == (2, 1), finished.err
        assert finished.err.startswith(expected)


@pytest.mark.parametrize(
    "column",
    [{"name": 0}, {"name": "a", "kind": 1}, {"name": "a", "kind": "category", "words": [1]}, {"x": 1}],
)
def test_rules_of_a_table_that_are_of_other_types_are_none(column: dict[str, Any]) -> None:
    values = {
        "path": "x.csv",
        "format": {"missing": []},
        "targets": [],
        "columns": [{"kind": "number", **column}],
    }
    with pytest.raises(TypeError):
        TableReader.from_description(values)


def test_a_crafted_run_builds_nothing_else_than_a_model_that_fits(digits_run: Path, tmp_path: Path) -> None:
    crafted = tmp_path / "run"
    shutil.copytree(digits_run, crafted)
    config = yaml.safe_load((crafted / "config.yaml").read_text())
    for node in (
        {"_target_": "lightning.pytorch.cli.instantiate_class", "init": {"class_path": "os.system"}},
        {"_target_": "descent.inference.load", "folder": str(digits_run), "allow": ["os"]},
        {"_target_": "torch.nn.Linear", "in_features": 64, "out_features": 10},
        {**config["model"], "hidden": [3]},
    ):
        (crafted / "config.yaml").write_text(yaml.safe_dump({**config, "model": node}))
        with pytest.raises(ConfigError) as error:
            load(crafted)
        assert "\n" not in str(error.value)
    (crafted / "config.yaml").write_text(yaml.safe_dump(config))
    file = crafted / "checkpoints/best.ckpt"
    checkpoint = torch.load(file)
    for changes in (
        {"input_shape": [1, 9, 9]},
        {"reader": {"kind": "table"}},
        {"outputs": 3, "names": ["a", "b", "c"]},
    ):
        torch.save({**checkpoint, "data": {**checkpoint["data"], **changes}}, file)
        with pytest.raises(ConfigError, match=r"run=.*: expected"):
            load(crafted)
