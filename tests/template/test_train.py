"""What a run leaves: its lines, its folder, its curves; the same from the same config, and from Python."""

import csv
import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import ROOT, TRAIN, Finished, Run, make_run
from small import result_of, rows_of
from test_resume import DDP, PLAIN

from descent.data.digits import digits
from descent.data.samples import FromSamples
from descent.errors import ConfigError
from descent.run.checkpoints import read
from descent.trainer import Trainer

LINE = re.compile(
    r"Epoch (\d+)/(\d+), Train Loss: \d+\.\d{4}, Train Acc: [01]\.\d{4},"
    r" Val Loss: \d+\.\d{4}, Val Acc: [01]\.\d{4}"
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """`loss=mae optimizer=sgd`, three epochs."""
    words = ["loss=mae", "optimizer=sgd", "trainer.max_epochs=3", "optimizer.lr=0.02"]
    return make_run(tmp_path_factory, *words)


def events(folder: Path) -> Any:
    """TensorBoard's own reading of a run's folder."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(folder), size_guidance={"tensors": 0, "histograms": 0})
    accumulator.Reload()
    return accumulator


def test_it_prints_one_line_an_epoch_as_the_tutorial_does_and_a_summary(finished: Finished) -> None:
    _, *epochs, test, trained, advice, folder, tensorboard = finished.out.splitlines()
    numbers = [match.groups() for line in epochs if (match := LINE.fullmatch(line))]
    assert numbers == [("1", "3"), ("2", "3"), ("3", "3")]
    assert re.fullmatch(r"Test Loss: .*, Test Acc: 0\.\d{4} \(the best checkpoint, of epoch 3\)", test)
    assert re.fullmatch(r"Trained 3 epochs in [\d.]+ s, [\d,]+ samples/s", trained)
    assert advice == "The last epoch was the best: more epochs may help, trainer.max_epochs=6"
    assert folder == "Run folder:  run"
    assert tensorboard.endswith("tensorboard --logdir .")
    assert "\r" not in finished.out  # no bar in a file
    assert finished.err == ""


def test_the_folder_holds_enough_to_repeat_the_run_and_the_figures_that_were_printed(
    finished: Finished,
) -> None:
    run = finished.folder / "run"
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["optimizer"]["lr"] == 0.02
    assert config["loss"]["_target_"] == "descent.losses.MeanAbsoluteError"
    assert (config["data"]["seed"], config["choices"]["loss"]) == (0, "mae")  # resolved
    assert yaml.safe_load((run / "overrides.yaml").read_text())[:2] == ["loss=mae", "optimizer=sgd"]
    environment = json.loads((run / "environment.json").read_text())
    assert environment["packages"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    if (ROOT / ".git").exists():
        assert re.fullmatch(r"[0-9a-f]{40}\n", (run / "git.txt").read_text())
        assert (run / "git.diff").exists()
    saved = {path.name for path in (run / "checkpoints").iterdir()}
    assert saved - {"previous.ckpt"} == {"best.ckpt", "last.ckpt"}  # a slow machine saves twice

    rows, result = rows_of(run), result_of(run)
    assert [(row["epoch"], row["step"]) for row in rows] == [("1", "90"), ("2", "180"), ("3", "270")]
    line = f"Train Loss: {float(rows[-1]['train/loss']):.4f}, Train Acc: {float(rows[-1]['train/acc']):.4f}"
    assert line in finished.out
    assert (result["epochs"], result["steps"]) == (3, 3 * 90)  # 1,437 samples in batches of 16
    assert result["final"] == {name: float(value) for name, value in rows[-1].items()}
    assert result["best"]["val/loss"] == min(float(row["val/loss"]) for row in rows)
    assert f"Test Acc: {result['test']['test/acc']:.4f}" in finished.out
    assert result["samples_per_second"] == pytest.approx(3 * 1437 / result["seconds"], rel=0.01)


def test_tensorboard_has_curves_their_layout_config_graph_and_hyperparameters(finished: Finished) -> None:
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    run = events(finished.folder / "run")
    for name in ("train/loss", "train/acc", "val/loss", "val/acc", "lr", "grad_norm", "samples_per_second"):
        assert [point.step for point in run.Scalars(name)] == [90, 180, 270], name
    assert len(run.Scalars("test/acc")) == 1
    assert run.Scalars("lr")[0].value == pytest.approx(0.02)
    assert run.Tags()["graph"]
    text = run.Tensors("config.yaml/text_summary")[0].tensor_proto.string_val[0].decode()
    assert "_target_: descent.losses.MeanAbsoluteError" in text
    layout = run.Tensors("custom_scalars__config__")[0].tensor_proto.string_val[0]
    places = [layout.index(name) for name in (b"train/loss", b"val/loss", b"train/acc", b"lr", b"grad_norm")]
    assert places == sorted(places)
    assert "_hparams_/session_start_info" in run.summary_metadata
    experiment = run.summary_metadata["_hparams_/experiment"].plugin_data.content
    plugin = HParamsPluginData.FromString(experiment).experiment
    # TensorBoard shows those that differ first, and then by their names
    columns = sorted((not info.differs, info.name) for info in plugin.hparam_infos)
    assert [name for _, name in columns][:4] == ["loss", "optimizer", "optimizer.lr", "seed"]
    shown = {info.name.tag for info in plugin.metric_infos}
    assert shown == {"val/loss", "val/acc", "test/loss", "test/acc"}


@pytest.mark.parametrize(("data", "picture"), [("digits", "confusion"), ("diabetes", "predicted_and_true")])
def test_insight_shows_weights_gradients_and_the_worst_predictions(
    run: Run, tmp_path: Path, data: str, picture: str
) -> None:
    words = ("callbacks=insight", "callbacks.insight.every=2", "data.batch_size=128", "trainer.max_epochs=3")
    assert run(f"data={data}", *words).code == 0
    board = events(tmp_path / "run")
    tags = board.Tags()
    assert {"weights/model.1.weight", "gradients/model.1.weight"} <= set(tags["histograms"])
    assert len(board.Histograms("weights/model.1.weight")) == 2  # of epochs 1 and 2
    assert picture in tags["images"]
    assert any(tag.startswith("worst") for tag in tags["images"]) == (data == "digits")
    table = board.Tensors("worst/text_summary")[0].tensor_proto.string_val[0].decode()
    assert table.count(", is ") == 9


def test_the_same_config_gives_the_same_weights_from_python_too(run: Run, tmp_path: Path) -> None:
    words = ["loss=mae", "optimizer=sgd", "model.dropout=0.5", "trainer.max_epochs=2"]
    for seed, name in ((5, "a"), (6, "c")):
        assert run(*words, f"seed={seed}", f"folder={tmp_path}/{name}").code == 0
    (tmp_path / "job.py").write_text(
        "import torch\n"
        "from descent import compose, train\n"
        f"run = train(compose(*{words!r}, 'seed=5', 'folder={tmp_path}/b'))\n"
        "given = run.predict(torch.full((2, 1, 8, 8), 3.0))\n"
        "assert given.shape == (2, 10) and torch.allclose(given.sum(1), torch.ones(2))\n"
        "assert run.result['test'] == run.metrics and run.metrics['test/acc'] > 0.1\n"
        "try:\n    compose('loss=mea')\n    raise SystemExit(3)\n"
        "except ValueError as error:\n    assert 'nearest: mae' in str(error)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    command = [sys.executable, "job.py"]
    subprocess.run(command, cwd=tmp_path, env=environment, check=True)
    first, again, other = (read(tmp_path / name / "checkpoints/last.ckpt")["state_dict"] for name in "abc")
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["model.1.weight"], other["model.1.weight"])
    assert rows_of(tmp_path / "a") == rows_of(tmp_path / "b")


def test_a_folder_is_never_written_to_twice(run: Run, tmp_path: Path) -> None:
    first, second = (run("trainer.max_epochs=1", "trainer.limit_train_batches=1") for _ in range(2))
    assert (first.code, second.code) == (0, 0)
    assert "\nRun folder:  run\n" in first.out
    assert "\nRun folder:  run-2 (another run has the name that you asked for)\n" in second.out
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == {"run", "run-2"}


# ---- what is best ------------------------------------------------------------------------------------------


def test_the_best_epoch_is_one_that_was_validated(run: Run, tmp_path: Path) -> None:
    finished = run(
        "trainer.check_val_every_n_epoch=3", "trainer.max_epochs=7", "trainer.limit_train_batches=9"
    )
    best, rows = result_of(tmp_path / "run")["best"], rows_of(tmp_path / "run")
    validated = {int(row["epoch"]): float(row["val/loss"]) for row in rows if row["val/loss"]}
    assert list(validated) == [3, 6]
    assert (best["val/loss"], best["epoch"]) == min((value, epoch) for epoch, value in validated.items())
    assert f"of epoch {best['epoch']})" in finished.out
    assert read(tmp_path / "run/checkpoints/best.ckpt")["epoch"] == best["epoch"] - 1


def test_the_best_value_is_that_of_the_weights_in_best_ckpt(run: Run, tmp_path: Path) -> None:
    words = ("trainer.val_check_interval=20", "optimizer.lr=0.03", "trainer.max_epochs=2", "metrics=none")
    assert run(*words).code == 0
    folder = tmp_path / "run"
    best, rows, saved = result_of(folder)["best"], rows_of(folder), read(folder / "checkpoints/best.ckpt")
    assert [row["step"] for row in rows] == ["20", "40", "60", "80", "90", "110", "130", "150", "170", "180"]
    least = min((float(row["val/loss"]), int(row["step"])) for row in rows if row["val/loss"])
    assert (best["val/loss"], best["step"]) == least
    assert (saved["global_step"], saved["epoch"] + 1) == (best["step"], best["epoch"])
    curve = events(folder).Scalars("val/loss")
    assert len({point.step for point in curve}) == len(curve) == 8
    weights, data = saved["state_dict"], FromSamples(digits, 16, 512, 0.1, 0.1, 0, 0.0)
    inputs, targets = next(iter(data.val_dataloader()))
    hidden = (inputs.flatten(1) @ weights["model.1.weight"].T + weights["model.1.bias"]).relu()
    outputs = hidden @ weights["model.3.weight"].T + weights["model.3.bias"]
    found = torch.nn.functional.cross_entropy(outputs, targets).item()
    assert found == pytest.approx(best["val/loss"], rel=1e-4)


def test_lightnings_own_checkpoints_and_a_test_of_them_leave_the_record_as_it_is(
    run: Run, tmp_path: Path
) -> None:
    top = "+callbacks.top={_target_: lightning.pytorch.callbacks.ModelCheckpoint, monitor: val/loss,"
    words = (top + " save_top_k: 3, mode: max}", "~callbacks.best_weights", "trainer.limit_train_batches=5")
    assert run(*words, "trainer.max_epochs=5").code == 0
    assert [row["epoch"] for row in rows_of(tmp_path / "run")] == ["1", "2", "3", "4", "5"]
    assert len(list((tmp_path / "run/checkpoints").glob("epoch=*.ckpt"))) == 3
    (tmp_path / "run").rename(tmp_path / "moved")
    longer = run(words[0], "resume=moved", "trainer.max_epochs=8", f"folder={tmp_path}/moved")
    assert longer.code == 0, longer.err
    assert len(list((tmp_path / "moved/checkpoints").glob("epoch=*.ckpt"))) == 3
    assert len(rows_of(tmp_path / "moved")) == 8


def test_what_a_module_logs_is_printed_recorded_and_monitored(run: Run, tmp_path: Path) -> None:
    finished = run(*PLAIN[1:], "monitor=val_hits", "mode=max", "trainer.max_epochs=2")
    assert finished.code == 0, finished.err
    best, rows = result_of(tmp_path / "run")["best"], rows_of(tmp_path / "run")
    assert best["val_hits"] == max(float(row["val_hits"]) for row in rows)
    assert "test_hits" in result_of(tmp_path / "run")["test"]
    assert "Checkpoints are written only at the start of an epoch, because DataLoader" in finished.out
    wrong = run(*PLAIN[1:], "monitor=val_hit", "trainer.max_epochs=2", f"folder={tmp_path}/wrong")
    assert (wrong.code, wrong.err.count("\n")) == (2, 1), wrong
    assert "nearest: val_hits" in wrong.err


@pytest.mark.parametrize("callbacks", ["none", "progress", "checkpoint"])
def test_the_last_epoch_and_the_test_are_recorded_whatever_the_callbacks(run: Run, callbacks: str) -> None:
    finished = run(f"callbacks={callbacks}", "logger=none", "trainer.max_epochs=2", "metrics=auroc")
    assert finished.code == 0, finished.err
    result = result_of(finished.folder / "run")
    assert result["epochs"] == result["final"]["epoch"] == 2
    assert 0 < result["test"]["test/loss"] < 3
    assert (finished.folder / "run/checkpoints").exists() == (callbacks == "checkpoint")


def test_a_number_that_is_not_defined_is_null_in_json(run: Run, tmp_path: Path) -> None:
    pytest.importorskip("descent.table", reason="a room that may be taken out")
    rows = [f"{i},{i % 5},{(i * 7) % 13}" for i in range(12)]
    (tmp_path / "small.csv").write_text("\n".join(["a,b,y", *rows]) + "\n")
    words = ("data=table", "data.path=small.csv", "data.target=y", "data.task=values", "trainer.max_epochs=2")
    finished = run(*words, "data.val_fraction=0.1", "data.test_fraction=0.1")
    assert finished.code == 0, finished.err
    assert result_of(tmp_path / "run")["test"]["test/r2"] is None


# ---- recipes, processes, terminals -------------------------------------------------------------------------


def test_regression_reports_mae_and_r2_in_the_targets_units(run: Run) -> None:
    finished = run("experiment=regression", "trainer.max_epochs=20")
    assert finished.code == 0, finished.err
    line = next(line for line in finished.out.splitlines() if line.startswith("Epoch 20/20"))
    figures = dict(part.split(": ") for part in line.split(", ")[1:])
    assert list(figures) == ["Train Loss", "Train MAE", "Train R²", "Val Loss", "Val MAE", "Val R²"]
    assert 20 < float(figures["Val MAE"]) < 70  # the target runs from 25 to 346
    assert float(figures["Val R²"]) > 0.2


def test_the_recipes_do_what_they_promise(run: Run, tmp_path: Path) -> None:
    overfit = run("experiment=overfit", f"folder={tmp_path}/overfit")
    assert "Epoch 60/60, Train Loss: 0.0" in overfit.out, overfit
    assert "Train Acc: 1.0000" in overfit.out
    profiled = run("trainer.profiler=simple", "trainer.max_epochs=1", "trainer.limit_train_batches=2")
    assert profiled.code == 0, profiled
    assert "run_training_batch" in profiled.out + profiled.err


def test_two_processes_share_one_run_and_one_of_them_reports_what_is_wrong(run: Run, tmp_path: Path) -> None:
    refused = run(*DDP, "optimizer.lr=-1")
    line = "optimizer.lr=-1: expected valid values (Invalid learning rate: -1)\n"
    assert (refused.code, refused.err) == (2, line)
    finished = run(*DDP, "trainer.max_epochs=2")
    assert finished.code == 0, finished.err
    assert finished.out.count("Epoch 1/2") == 1
    assert [path.name for path in tmp_path.iterdir() if path.name[0] != "."] == ["run"]
    result = result_of(tmp_path / "run")
    assert result["steps"] == 2 * 45
    assert result["final"]["val/acc"] > 0.5
    assert run(f"resume={tmp_path}/run", "trainer.max_epochs=3").code == 0
    assert result_of(tmp_path / "run")["steps"] == 3 * 45


def on_terminal(folder: Path, width: int, *words: str) -> str:
    """Train for two epochs in a terminal of this width, and return everything that it got."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, width, 0, 0))
    command = [sys.executable, TRAIN, *words, "trainer.max_epochs=2", f"folder={folder}/run"]
    environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    process = subprocess.Popen(command, stdout=slave, stderr=slave, cwd=folder, env=environment)
    os.close(slave)
    chunks = []
    while True:
        try:
            chunks.append(os.read(master, 65536))
        except OSError:  # how a terminal ends
            break
    assert process.wait() == 0
    return b"".join(chunks).decode()


def test_on_a_terminal_there_is_a_bar_and_the_lines_stay(tmp_path: Path) -> None:
    screen = on_terminal(tmp_path, 140, "callbacks.progress.interval=0.001")
    bar = r"\r\x1b\[KEpoch 1/2: +\d+%\|.* \d+/90 \[[\d:]+<[\d:]+, .*it/s, loss \d"
    assert re.search(bar, screen), screen[:2000]
    assert re.search(r"Epoch 2/2, .*Val Loss", screen)


def test_figures_that_do_not_fit_a_terminal_are_printed_in_columns_that_do(tmp_path: Path) -> None:
    screen = on_terminal(tmp_path, 80, "metrics=classification_full", "callbacks.progress.bar=false")
    lines = screen.replace("\r", "").split("\n")
    first = next(number for number, line in enumerate(lines) if line.startswith("Epoch 1/2"))
    header, train, val, later = lines[first - 1 : first + 3]
    assert header.split() == ["Loss", "Acc", "acc", "f1", "auroc", "precision", "error"]
    assert lines[first - 2].split() == ["balanced", "average", "calibration"]  # no word is cut
    row = next(csv.DictReader((tmp_path / "run/metrics.csv").open()))
    for line, stage in ((train, "train"), (val, "val")):
        expected = [f"{float(row[name]):.4f}" for name in row if name.startswith(f"{stage}/")]
        assert re.findall(r"\d\.\d{4}", line) == expected
    assert later.startswith("Epoch 2/2")  # the header is printed once
    assert max(len(line) for line in lines if not line.startswith(("Run folder:", "TensorBoard:"))) <= 80


def test_a_cpu_takes_only_as_many_processes_as_it_can_bear(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^devices=999: expected at most \d+ on this CPU$"):
        Trainer(tmp_path, accelerator="cpu", devices=999, strategy="ddp")  # starts none of them yet


@pytest.mark.parametrize(("word", "code", "lines"), [("seed=1", 0, 0), ("optimizer.lr=-1", 2, 1)])
def test_a_process_ends_at_once_and_quietly_with_all_that_it_has_printed(
    tmp_path: Path, word: str, code: int, lines: int
) -> None:
    look = (
        "import atexit, runpy, sys, torch; sys.argv = sys.argv[1:]\n"
        "atexit.register(lambda: print('threads', torch.get_num_threads()))\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')\n"
    )
    # a process of its own, because one that is forked from another never takes itself apart
    words = [word, "trainer.max_epochs=1", "trainer.accelerator=cpu", f"folder={tmp_path}/run"]
    command = [sys.executable, "-c", look, TRAIN, *words]
    env = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    finished = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    said = finished.stdout.splitlines()
    assert (finished.returncode, len(finished.stderr.splitlines())) == (code, lines), finished.stderr
    assert said[-1] == "threads 1"  # small batches have one thread
    assert code or said[-2].startswith("TensorBoard: ")
