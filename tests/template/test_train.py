"""What a run leaves: its lines, its folder, its curves; the same from the same config."""

import csv
import json
import os
import pty
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT, TRAIN, Finished, Run, make_run
from omegaconf import OmegaConf
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from descent.tensorboard import TensorBoard

LINE = re.compile(
    r"Epoch (\d+)/(\d+), Train Loss: \d+\.\d{4}, Train Acc: [01]\.\d{4},"
    r" Val Loss: \d+\.\d{4}, Val Acc: [01]\.\d{4}"
)
DDP = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """`loss=mae optimizer=sgd`, three epochs."""
    words = ["loss=mae", "optimizer=sgd", "trainer.max_epochs=3", "optimizer.lr=0.02"]
    return make_run(tmp_path_factory, *words)


def events(folder: Path) -> Any:
    """TensorBoard's own reading of a run's folder."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(folder), size_guidance={"tensors": 0, "scalars": 0})
    accumulator.Reload()
    return accumulator


def test_curves_that_wait_in_memory_keep_their_times_and_survive_an_exception(tmp_path: Path) -> None:
    logger = TensorBoard(tmp_path, name="", version="", prefix="a")
    begun = time.time()
    logger.log_metrics({"train/loss": 0.5, "lr": 0.1}, 1)
    logger.log_metrics({"train/loss": 0.25, "lr": 0.1}, 2)
    logger.log_metrics({"other": torch.tensor(3.0)}, 2)
    ended = time.time()
    time.sleep(0.05)
    logger.finalize("failed")  # as Lightning does after an exception
    curves = events(tmp_path)
    assert sorted(curves.Tags()["scalars"]) == ["a-lr", "a-other", "a-train/loss"]
    points = curves.Scalars("a-train/loss")
    assert [(point.step, point.value) for point in points] == [(1, 0.5), (2, 0.25)]
    assert begun <= points[0].wall_time <= points[1].wall_time <= ended


def test_one_line_an_epoch_as_the_tutorial_prints_it(finished: Finished) -> None:
    lines = [line for line in finished.out.splitlines() if line.startswith("Epoch")]
    numbers = [match.groups() for line in lines if (match := LINE.fullmatch(line))]
    assert numbers == [("1", "3"), ("2", "3"), ("3", "3")]
    assert "\r" not in finished.out  # no bar in a file
    assert finished.err == ""


def test_it_ends_with_a_summary_the_folder_and_the_line_for_tensorboard(finished: Finished) -> None:
    *_, test, trained, advice, folder, tensorboard = finished.out.splitlines()
    assert re.fullmatch(r"Test Loss: .*, Test Acc: 0\.\d{4} \(the best checkpoint, of epoch 3\)", test)
    assert re.fullmatch(r"Trained 3 epochs in [\d.]+ s, [\d,]+ samples/s", trained)
    assert advice.startswith("Val Loss was still falling at the last epoch: more epochs may help")
    assert folder == "Run folder:  run"
    assert tensorboard.endswith("tensorboard --logdir .")


def test_the_folder_holds_enough_to_repeat_the_run(finished: Finished) -> None:
    run = finished.folder / "run"
    config = OmegaConf.load(run / "config.yaml")
    assert config.optimizer.lr == 0.02
    assert config.loss._target_ == "descent.losses.MeanAbsoluteError"
    assert config.data.seed == 0  # resolved
    overrides = OmegaConf.load(run / "overrides.yaml")
    assert list(overrides)[:2] == ["loss=mae", "optimizer=sgd"]
    environment = json.loads((run / "environment.json").read_text())
    assert environment["packages"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    if (ROOT / ".git").exists():
        assert re.fullmatch(r"[0-9a-f]{40}\n", (run / "git.txt").read_text())
        assert (run / "git.diff").exists()
    assert {path.name for path in (run / "checkpoints").iterdir()} >= {"best.ckpt", "last.ckpt"}


def test_metrics_and_result_agree_with_the_printed_lines(finished: Finished) -> None:
    run = finished.folder / "run"
    with (run / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    last = rows[-1]
    line = f"Train Loss: {float(last['train/loss']):.4f}, Train Acc: {float(last['train/acc']):.4f}"
    assert line in finished.out
    result = json.loads((run / "result.json").read_text())
    assert result["epochs"] == 3
    assert result["steps"] == 3 * 90  # 1,437 samples in batches of 16
    assert result["final"] == {name: float(value) for name, value in last.items()}
    assert result["best"]["val/loss"] == min(float(row["val/loss"]) for row in rows)
    assert f"Test Acc: {result['test']['test/acc']:.4f}" in finished.out
    assert result["samples_per_second"] == pytest.approx(3 * 1437 / result["seconds"], rel=0.01)


def test_tensorboard_has_curves_by_epoch_rate_config_graph_and_hyperparameters(finished: Finished) -> None:
    run = events(finished.folder / "run")
    tags = run.Tags()
    for name in ("train/loss", "train/acc", "val/loss", "val/acc", "lr"):
        assert [point.step for point in run.Scalars(name)] == [1, 2, 3], name
    for name in ("test/loss", "test/acc"):
        assert [point.step for point in run.Scalars(name)] == [3], name
    assert run.Scalars("lr")[0].value == pytest.approx(0.02)
    assert tags["graph"]
    text = run.Tensors("config.yaml/text_summary")[0].tensor_proto.string_val[0].decode()
    assert "_target_: descent.losses.MeanAbsoluteError" in text
    assert "_hparams_/session_start_info" in run.summary_metadata
    hparams = run.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    assert b"optimizer.lr" in hparams
    experiment = run.summary_metadata["_hparams_/experiment"].plugin_data.content
    plugin = HParamsPluginData.FromString(experiment).experiment
    # TensorBoard shows those that differ first, and then by their names
    columns = sorted((not info.differs, info.name) for info in plugin.hparam_infos)
    assert [name for _, name in columns][:4] == ["loss", "optimizer", "optimizer.lr", "seed"]
    shown = {info.name.tag for info in plugin.metric_infos}
    assert shown == {"val/loss", "val/acc", "test/loss", "test/acc"}


def test_the_same_config_gives_the_same_weights(run: Run, tmp_path: Path) -> None:
    words = ["model.dropout=0.5", "trainer.max_epochs=2", "trainer.limit_train_batches=20"]

    def weights(name: str, seed: int) -> dict[str, torch.Tensor]:
        assert run(*words, f"seed={seed}", f"folder={tmp_path}/{name}").code == 0
        return torch.load(tmp_path / name / "checkpoints/last.ckpt", weights_only=True)["state_dict"]

    first, again, other = weights("a", 5), weights("b", 5), weights("c", 6)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["model.1.weight"], other["model.1.weight"])


def test_a_folder_is_never_written_to_twice(run: Run, tmp_path: Path) -> None:
    first, second = (run("trainer.max_epochs=1", "trainer.limit_train_batches=1") for _ in range(2))
    assert (first.code, second.code) == (0, 0)
    assert "\nRun folder:  run\n" in first.out
    assert "\nRun folder:  run-2 (run is another run)\n" in second.out
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == {"run", "run-2"}


def test_runs_have_readable_names(run: Run) -> None:
    finished = run("--cfg", "job", "--resolve", "loss=mae", "optimizer=sgd", "optimizer.lr=0.1", "seed=3")
    assert "name: mae-sgd-mlp-digits-lr=0.1-seed=3\n" in finished.out
    assert re.search(rf"folder: {ROOT}/logs/mae-sgd-mlp-digits-lr=0.1-seed=3-\d{{8}}-\d{{6}}\n", finished.out)


def test_regression_reports_mae_and_r2_in_the_targets_units(run: Run) -> None:
    finished = run("experiment=regression", "trainer.max_epochs=20")
    assert finished.code == 0, finished.err
    line = next(line for line in finished.out.splitlines() if line.startswith("Epoch 20/20"))
    figures = dict(part.split(": ") for part in line.split(", ")[1:])
    assert list(figures) == ["Train Loss", "Train MAE", "Train R²", "Val Loss", "Val MAE", "Val R²"]
    assert 20 < float(figures["Val MAE"]) < 70  # the target runs from 25 to 346
    assert float(figures["Val R²"]) > 0.2


def test_the_tutorials_recipe_learns_the_digits(run: Run) -> None:
    finished = run("experiment=tutorial")
    assert finished.code == 0, finished.err
    assert finished.out.count("Epoch ") >= 10
    assert float(finished.out.split("Test Acc: ")[1][:6]) > 0.9


def test_the_debug_recipe_runs_a_few_batches(run: Run) -> None:
    finished = run("experiment=debug")
    assert finished.code == 0, finished.err
    assert json.loads((finished.folder / "run/result.json").read_text())["steps"] == 8


def test_the_overfit_recipe_learns_one_batch_by_heart(run: Run) -> None:
    finished = run("experiment=overfit")
    assert finished.code == 0, finished.err
    assert "Epoch 60/60, Train Loss: 0.0" in finished.out
    assert "Train Acc: 1.0000" in finished.out


def test_under_label_noise_mae_ends_ahead_of_cross_entropy(run: Run, tmp_path: Path) -> None:
    finished = run("experiment=mae_vs_cross_entropy", "folder=sweep", timeout=240)
    assert finished.code == 0, finished.err
    mae, cross_entropy = (
        json.loads((tmp_path / f"sweep/loss={loss}/result.json").read_text())["final"]["val/acc"]
        for loss in ("mae", "cross_entropy")
    )
    assert mae > cross_entropy + 0.1


def test_two_processes_share_one_run(run: Run, tmp_path: Path) -> None:
    finished = run(*DDP, "trainer.max_epochs=2")
    assert finished.code == 0, finished.err
    assert finished.out.count("Epoch 1/2") == 1
    assert [path.name for path in tmp_path.iterdir() if path.name[0] != "."] == ["run"]
    result = json.loads((tmp_path / "run/result.json").read_text())
    assert result["steps"] == 2 * 45
    assert result["final"]["val/acc"] > 0.5


def test_of_two_processes_one_tells_what_is_wrong(run: Run) -> None:
    refused = run(*DDP, "optimizer.lr=-1")
    told = "optimizer.lr=-1: expected values that it takes (Invalid learning rate: -1)\n"
    assert (refused.code, refused.err) == (2, told)


def test_on_a_terminal_there_is_a_bar_and_the_lines_stay(tmp_path: Path) -> None:
    words = ["trainer.max_epochs=2", "callbacks.progress.interval=0.01", f"folder={tmp_path}/run"]
    master, slave = pty.openpty()
    process = subprocess.Popen([sys.executable, TRAIN, *words], stdout=slave, stderr=slave, cwd=tmp_path)
    os.close(slave)
    chunks = []
    while True:
        try:
            chunks.append(os.read(master, 65536))
        except OSError:  # how a terminal ends
            break
    assert process.wait() == 0
    screen = b"".join(chunks).decode()
    assert re.search(r"\r\x1b\[2KEpoch 1 ━+─* \d+/90 \d+ batches/s", screen)
    assert "\x1b[2KEpoch 2/2, Train Loss: " in screen


def test_a_run_of_a_sweep_has_the_threads_that_it_has_alone(run: Run, tmp_path: Path) -> None:
    words = ("trainer.max_epochs=1", "callbacks=none", "logger=none")
    swept = run("-m", "data.batch_size=16,1024", *words, "folder=swept")
    alone = run("data.batch_size=1024", *words)
    assert (swept.code, alone.code) == (0, 0), swept.err + alone.err
    folders = *(tmp_path / f"swept/data.batch_size={size}" for size in (16, 1024)), tmp_path / "run"
    few, many, by_itself = (json.loads((f / "environment.json").read_text())["threads"] for f in folders)
    assert few == 1
    assert many == by_itself
