"""Loggers by word, several at once: their points are those of metrics.csv, also where a run was resumed."""

import csv
import json
import zipfile
from collections import defaultdict
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from conftest import Run

from descent.run.folder import RunFolder

QUIET = {"WANDB_SILENT": "true", "MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}
SHORT = ("threads=1", "trainer.limit_train_batches=8", "checkpoint.every=1epoch")
Points = dict[str, list[float]]


def read_csv(file: Path) -> Points:
    """Return the columns of a file of metrics, without the empty cells."""
    points: Points = defaultdict(list)
    with file.open(newline="") as lines:
        for row in csv.DictReader(lines):
            for name, text in row.items():
                if text:
                    points[name].append(float(text))
    return points


def read_wandb(folder: Path) -> Points:
    """Return the curves that the files of an offline run contain, of several processes in their order."""
    from wandb.proto.wandb_internal_pb2 import Record

    points: Points = defaultdict(list)
    for file in sorted(folder.parent.glob("wandb/*run-*/*.wandb")):
        for data in split_records(file.read_bytes()):
            record = Record()
            record.ParseFromString(data)
            for item in record.history.item:
                points[item.key or "/".join(item.nested_key)].append(json.loads(item.value_json))
    return points


def split_records(data: bytes) -> Iterator[bytes]:
    """Yield the records of LevelDB's log format, behind a header of 7 bytes."""
    place, block, record = 7, 32_768, b""
    while place + 7 <= len(data):
        if (left := block - place % block) < 7:
            place += left
            continue
        length, kind = int.from_bytes(data[place + 4 : place + 6], "little"), data[place + 6]
        record += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part of one
            yield record
            record = b""


def read_mlflow(folder: Path) -> tuple[list[Any], Points]:
    """Return the runs of the database, and the curves of the first one."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder.parent}/mlflow.db")
    experiment = client.get_experiment_by_name("descent")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    names = runs[0].data.metrics
    points = {n: [m.value for m in client.get_metric_history(runs[0].info.run_id, n)] for n in names}
    return runs, points


def require_equal(found: Points, folder: Path, repeated: bool = False) -> None:
    """Compare curves with metrics.csv; steps that a resumed run went once more may be there twice."""
    expected = {n: v for n, v in read_csv(RunFolder(folder).metrics).items() if n not in ("epoch", "step")}
    assert {"train/loss", "val/acc", "lr"} <= expected.keys()
    for name, values in expected.items():
        curve = list(dict.fromkeys(found[name])) if repeated else found[name]
        wanted = list(dict.fromkeys(values)) if repeated else values
        assert curve == pytest.approx(wanted, rel=1e-5), name


def test_several_loggers_at_once_have_the_points_of_metrics_csv(run: Run, tmp_path: Path) -> None:
    assert run(*SHORT, "logger=[csv,tensorboard]", "trainer.max_epochs=3").code == 0
    require_equal(read_csv(tmp_path / "run/csv/metrics.csv"), tmp_path / "run")
    assert RunFolder(tmp_path / "run").events()


def test_wandb_without_a_network_has_the_points_of_metrics_csv_and_goes_on_with_its_run(
    run: Run, tmp_path: Path
) -> None:
    pytest.importorskip("wandb")
    words = (*SHORT, "logger=wandb", "logger.wandb.offline=true")
    finished = run(*words, "trainer.max_epochs=3", **QUIET)
    assert finished.code == 0, finished.err
    require_equal(read_wandb(tmp_path / "run"), tmp_path / "run")
    finished = run(f"resume={tmp_path}/run", "trainer.max_epochs=5", **QUIET)
    assert finished.code == 0, finished.err
    require_equal(read_wandb(tmp_path / "run"), tmp_path / "run", repeated=True)
    parts = sorted((tmp_path / "wandb").glob("offline-run-*"))
    assert len(parts) == 2
    assert len({path.name.rpartition("-")[2] for path in parts}) == 1  # one run for `wandb sync`


def test_mlflow_has_the_points_of_metrics_csv_and_goes_on_with_its_run(run: Run, tmp_path: Path) -> None:
    pytest.importorskip("mlflow")
    finished = run(*SHORT, "logger=mlflow", "trainer.max_epochs=3", **QUIET)
    assert finished.code == 0, finished.err
    runs, points = read_mlflow(tmp_path / "run")
    require_equal(points, tmp_path / "run")
    assert runs[0].data.params["optimizer"] == "adam"
    finished = run(f"resume={tmp_path}/run", "trainer.max_epochs=5", **QUIET)
    assert finished.code == 0, finished.err
    runs, points = read_mlflow(tmp_path / "run")
    assert len(runs) == 1
    require_equal(points, tmp_path / "run", repeated=True)


def test_comet_without_a_network_has_the_points_of_metrics_csv(run: Run, tmp_path: Path) -> None:
    pytest.importorskip("comet_ml")
    finished = run(*SHORT, "logger=comet", "trainer.max_epochs=3", COMET_START_ONLINE="0")
    assert finished.code == 0, finished.err
    (file,) = (tmp_path / "run").glob("*.zip")
    points: Points = defaultdict(list)
    for line in zipfile.Path(file, "messages.json").read_text().splitlines():
        message = json.loads(line)
        if message["type"] == "metric_msg":
            metric = message["payload"]["metric"]
            points[metric["metricName"]].append(float(metric["metricValue"]))
    require_equal(points, tmp_path / "run")


def test_a_logger_whose_library_is_missing_is_one_line(run: Run, tmp_path: Path) -> None:
    if find_spec("comet_ml"):
        pytest.skip("comet_ml is installed")
    finished = run("logger=comet", "trainer.max_epochs=1")
    assert (finished.code, finished.err.count("\n")) == (2, 1)
    assert finished.err.startswith("logger.comet: expected ")
    assert not (tmp_path / "run").exists()
