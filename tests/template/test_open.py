"""Whatever works in plain Lightning works here, named by `_target_` in one YAML file."""

import math
import re
import shlex
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchmetrics
import yaml
from conftest import ROOT, Finished, Run, finish
from plain import Lines, Reader, TwoLoaders
from small import last_weights, result_of, rows_of, train_here
from torch import nn

from descent.build import build_node
from descent.metrics import EpochMetrics
from descent.models import MLP
from descent.module import Supervised
from descent.task import Classes, Labels, Task, Tokens


def metric(name: str, **fields: Any) -> dict[str, Any]:
    return {"_target_": f"torchmetrics.{name}", **fields}


CLASSES = {  # a model and what goes with it, where the data says nothing of itself
    "model": {"_target_": "torch.nn.Linear", "in_features": 2, "out_features": 2},
    "loss": {"_target_": "torch.nn.CrossEntropyLoss"},
    "metrics": {"acc": {"_target_": "descent.metrics.Accuracy"}},
}
POINTS = {"data": "plain.TwoLoaders", **CLASSES}
STREAM = {"_target_": "plain.Data", "kind": "stream", "workers": 2}
SEVEN = {"module": "plain.Seven", "data": "plain.TwoLoaders"}
HEADS = {
    "side": metric("classification.MulticlassAccuracy", num_classes=2),
    "distance": metric("MeanAbsoluteError"),
}
PLAIN: dict[str, dict[str, Any]] = {  # by name: the parts, and what is monitored
    "a module of seven lines": SEVEN,
    "two optimizers by hand": {"module": "plain.Pair", "data": "plain.Tested", "monitor": "val_gap"},
    "two loaders": POINTS,
    "a stream with workers": {**CLASSES, "data": STREAM},
    "a weighted sampler": {"data": "plain.Weighted", **CLASSES},
    "two heads": {
        "data": "plain.TwoTargets",
        "model": {"_target_": "plain.TwoHeads", "width": 8},
        "loss": "plain.BothLosses",
        "metrics": {"of": metric("wrappers.MultitaskWrapper", task_metrics=HEADS)},
        "monitor": "val/of_distance",
    },
    "datasets": {"data": "plain.OfHuggingFace", **CLASSES},
    "torchvision": {"module": "plain.Seven", "data": "plain.OfTorchvision"},
}


def write(folder: Path, parts: dict[str, Any], run: str = "run") -> list[str]:
    """Put parts together in one YAML file, and return the words that choose it and the run's folder."""
    nodes = {k: {"_target_": v} if k != "monitor" and isinstance(v, str) else v for k, v in parts.items()}
    cleared = [{f"override /{group}": None} for group in nodes.keys() - {"monitor", "callbacks", "logger"}]
    file = folder / "conf/experiment" / "mine.yaml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("# @package _global_\n" + yaml.safe_dump({"defaults": cleared, **nodes}, sort_keys=False))
    words = ["experiment=mine", "threads=1", "trainer.accelerator=cpu", f"folder={folder}/{run}"]
    return ["--config-dir", str(folder / "conf"), *words]


def train_on(run: Run, folder: Path, parts: dict[str, Any], *words: str) -> Any:
    """Train parts without an error, and return what the run's result.json contains."""
    finished = run(*write(folder, parts), *words)
    assert (finished.code, finished.err) == (0, "")
    return result_of(folder / "run")


@pytest.mark.parametrize("name", PLAIN)
def test_plain_parts_are_trained_recorded_monitored_and_resumed(run: Run, tmp_path: Path, name: str) -> None:
    if name in ("datasets", "torchvision"):
        pytest.importorskip(name)
    parts = {**PLAIN[name], "callbacks": {"kill": {"_target_": "plain.Kill"}}}
    short = ["trainer.max_epochs=3", "checkpoint.every=1epoch"]
    whole = run(*write(tmp_path, parts, "whole"), *short)
    assert (whole.code, whole.err) == (0, "")
    result = result_of(tmp_path / "whole")
    rows = rows_of(tmp_path / "whole")
    monitor = parts.get("monitor") or ("val_loss" if "Seven" in str(parts) else "val/loss")
    values = [float(row[monitor]) for row in rows]
    assert len(values) == 3
    assert result["best"][monitor] == min(values)
    assert f"Epoch 3/3, {'Train Loss' if monitor.startswith('val/') else monitor}: " in whole.out
    assert last_weights(tmp_path / "whole", "best").keys() == last_weights(tmp_path / "whole").keys()
    assert whole.out.count("written only at the start of an epoch") == 1  # what resuming costs, once
    tested = "Seven" not in str(parts) and "TwoLoaders" not in str(parts)
    assert ("test" in result) == tested == ("No test, because" not in whole.out)

    if name in ("two loaders", "datasets", "torchvision"):
        return  # whose loader is that of the first case
    words = [*write(tmp_path, parts, "cut"), *short]
    cut = run(*words, KILL_AT="30" if name == "two optimizers by hand" else "15", KILL_WITH="15")
    assert (cut.code, "Stopped in epoch 2, after step" in cut.err) == (128 + 15, True)
    again = run(*words, "resume=true")
    assert again.code == 0, again.err
    one, other = last_weights(tmp_path / "whole"), last_weights(tmp_path / "cut")
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_the_weights_load_as_in_plain_lightning(tmp_path: Path) -> None:
    train_here(tmp_path / "run", "trainer.max_epochs=1")
    parts: Any = {"model": MLP((1, 8, 8), 10, [256], 0.0), "criterion": nn.CrossEntropyLoss()}
    path = tmp_path / "run/checkpoints/best.ckpt"
    module = Supervised.load_from_checkpoint(path, strict=False, optimizer=torch.optim.Adam, **parts)
    kept = last_weights(tmp_path / "run", "best")
    assert all(torch.equal(kept[f"model.{name}"], t) for name, t in module.model.state_dict().items())


METRICS: list[tuple[dict[str, Any], Task, tuple[int, ...], tuple[int, ...]]] = [
    (metric("text.Perplexity", ignore_index=-100), Tokens("abcde", pad=0), (7, 5), (7,)),
    (metric("segmentation.MeanIoU", input_format="mixed"), Classes("abc"), (3, 6, 6), (6, 6)),
    (metric("segmentation.DiceScore", input_format="mixed"), Classes("abc"), (3, 6, 6), (6, 6)),
    (metric("classification.MultilabelF1Score"), Labels("abcd"), (4,), (4,)),
    (metric("classification.MulticlassAUROC"), Classes("abc"), (3,), ()),
]


@pytest.mark.parametrize(("node", "task", "outputs", "targets"), METRICS, ids=lambda value: str(value)[:60])
def test_any_metric_gets_what_it_would_get_by_hand(
    node: dict[str, Any], task: Task, outputs: tuple[int, ...], targets: tuple[int, ...]
) -> None:
    metrics = build_node("metrics", {"it": node}, {"task": task, **task.sizes()})
    epoch = EpochMetrics(metrics, task, nn.CrossEntropyLoss())
    torch.manual_seed(0)
    most = 2 if isinstance(task, Labels) else len(task.names)
    batches = [(torch.randn(n, *outputs), torch.randint(most, (n, *targets))) for n in (5, 5, 3)]
    epoch.reset(torch.device("cpu"))
    for number, (batch, truth) in enumerate(batches):
        epoch.try_out(batch, truth)
        epoch.add(number, torch.tensor(0.0), batch, truth)
    by_hand: torchmetrics.Metric = metrics["it"].clone()
    by_hand.update(*task.for_metrics(*(torch.cat(parts) for parts in zip(*batches, strict=True))))
    assert epoch.compute()["it"] == pytest.approx(by_hand.compute().mean().item(), rel=1e-5)


def test_the_memory_of_metrics_is_bounded(run: Run, tmp_path: Path) -> None:
    parts = {
        "data": "plain.Pixels",
        "model": {"_target_": "torch.nn.Conv2d", "in_channels": 1, "out_channels": 19, "kernel_size": 1},
        "loss": {"_target_": "torch.nn.CrossEntropyLoss"},
        "metrics": {"iou": metric("segmentation.MeanIoU", num_classes=19, input_format="mixed")},
        "callbacks": {"memory": {"_target_": "plain.PeakMemory"}},
    }
    train_on(run, tmp_path, parts, "trainer.max_epochs=1")
    out = (tmp_path / ".out").read_text()
    assert int(out.partition("grew by ")[2].split()[0]) < 450, out


def test_what_fills_short_lines_counts_in_neither_loss_nor_perplexity(run: Run, tmp_path: Path) -> None:
    parts = {"data": "plain.Lines", "model": {"_target_": "plain.Reader", "width": 8}}
    best = train_on(run, tmp_path, parts, "trainer.max_epochs=2")["best"]
    reader = Reader(vocabulary=7, width=8)
    kept = last_weights(tmp_path / "run", "best")
    reader.load_state_dict({name: kept[f"model.{name}"] for name in reader.state_dict()})
    pairs = [(reader(line[None, :-1])[0], line[1:]) for line in Lines().lines[:50]]
    logits, letters = map(torch.cat, zip(*pairs, strict=True))
    loss = nn.functional.cross_entropy(logits, letters).item()
    assert best["val/loss"] == pytest.approx(loss, rel=1e-5)
    assert best["val/perplexity"] == pytest.approx(math.exp(loss), rel=1e-5)
    assert best["val/acc"] == pytest.approx((logits.argmax(1) == letters).float().mean().item())


def test_a_collate_function_may_mix_samples(run: Run, tmp_path: Path) -> None:
    data = {"_target_": "plain.TwoLoaders", "collate": {"_target_": "plain.mix", "_partial_": True}}
    words = ("trainer.max_epochs=5", "optimizer.lr=0.05")
    assert train_on(run, tmp_path, {**CLASSES, "data": data}, *words)["final"]["val/acc"] > 0.7


def test_the_weights_of_an_average_are_those_that_were_validated_and_kept(run: Run, tmp_path: Path) -> None:
    words = ("trainer.max_epochs=3", "callbacks=ema", "callbacks.ema.decay=0.9")
    best = train_on(run, tmp_path, POINTS, *words)["best"]
    kept = last_weights(tmp_path / "run", "best")
    inputs, targets = TwoLoaders().dataset[:]
    logits = nn.functional.linear(inputs, kept["model.weight"], kept["model.bias"])
    assert nn.functional.cross_entropy(logits, targets).item() == pytest.approx(best["val/loss"], rel=1e-5)


@pytest.mark.parametrize("word", ["none", "progress"])
def test_without_a_checkpoint_the_last_epoch_and_the_test_are_recorded(
    run: Run, tmp_path: Path, word: str
) -> None:
    finished = run(f"callbacks={word}", "trainer.max_epochs=3")
    assert (finished.code, finished.err) == (0, "")
    rows, result = rows_of(tmp_path / "run"), result_of(tmp_path / "run")
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert result["final"]["val/loss"] == float(rows[-1]["val/loss"])
    assert result["test"]["test/acc"] > 0.5


MONITOR = "+callbacks.usage._target_=lightning.pytorch.callbacks.DeviceStatsMonitor"


NOT_INSTALLED = pytest.mark.skipif(find_spec("psutil") is not None, reason="psutil is installed")


@pytest.mark.parametrize(
    ("parts", "words", "line"),
    [
        (POINTS, "fold=1", "fold=1: expected null, because plain"),
        ({**POINTS, "data": "plain.UsedUp"}, "", "data: expected a training loader that can start again"),
        ({"logger": {"mine": {"save_dir": "x"}}}, "", "logger.mine"),
        ({"callbacks": {"flip": {"every": 3}}}, "", "callbacks.flip"),
        ({}, f"{MONITOR} logger=none", MONITOR[1:]),
        pytest.param({}, MONITOR, f"{MONITOR[1:]}: expected valid values (", marks=NOT_INSTALLED),
        (SEVEN, "loss=mae", "loss=mae: expected no override, because plain"),
        ({**SEVEN, "monitor": "val_los"}, "", "monitor=val_los: "),
    ],
)
def test_what_cannot_be_is_one_line_by_its_key(
    run: Run, tmp_path: Path, parts: dict[str, Any], words: str, line: str
) -> None:
    finished = run(*write(tmp_path, parts), *words.split(), "trainer.max_epochs=2")
    assert (finished.code, finished.err.count("\n")) == (2, 1), finished.err
    assert finished.err.startswith(line)


PAGE = (ROOT / "docs/extending.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^python src/train\.py (.*)$", PAGE, re.MULTILINE)
EACH = """
import shlex, sys
from descent import compose, train
from descent.errors import ConfigError
for number, line in enumerate(open("commands")):
    try:
        words = [f"folder=logs/{number}", *shlex.split(line)]
        train(compose(*words))
        print("ran", line.strip(), flush=True)
    except ConfigError as error:
        print("refused", line.strip(), error, flush=True)
"""


STREAMS = {"hub": "datasets", "shards": "litdata"}  # and the libraries that they need
WRITE = """
import sys, torch
from litdata import optimize
def sample(row):
    return torch.tensor([row % 3 - 1.0, row % 7 - 3.0]), row % 3
if __name__ == "__main__":
    for name, rows in (("train", range(400)), ("val", range(400, 500))):
        optimize(sample, list(rows), f"shards/{name}", chunk_size=100, num_workers=1)
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Return a copy of the project with the code of the page."""
    for part in ("src", "conf"):
        shutil.copytree(
            ROOT / part, tmp_path / part, ignore=shutil.ignore_patterns("examples", "__pycache__")
        )
    files = re.findall(r"In `((?:src|conf)/\S+)`[^\n]*:\n\n```\w+\n(.*?)^```", PAGE, re.M | re.S)
    assert len(files) == PAGE.count("```python") + PAGE.count("```yaml")
    for name, text in files:
        assert not (tmp_path / name).exists(), name
        (tmp_path / name).write_text(text)
    (tmp_path / "arrays").mkdir()
    for name, size in (("train", 60), ("val", 20), ("test", 20)):
        np.save(tmp_path / f"arrays/{name}_x.npy", np.ones((size, 3), "float32"))
        np.save(tmp_path / f"arrays/{name}_y.npy", np.arange(size) % 3)
    return tmp_path


def test_the_code_of_the_page_on_extending_runs(project: Path) -> None:
    pytest.importorskip("descent.inference", reason="a room that may be taken out")
    short = "trainer.max_epochs=1 trainer.limit_train_batches=4 trainer.accelerator=cpu"
    streams = tuple(f"data={word} " for word in STREAMS)  # which the next test runs
    lines = [f"{line} {short}\n" for line in COMMANDS if not line.startswith(streams)]
    assert len(lines) == len(COMMANDS) - len(streams)
    (project / "commands").write_text("".join(lines))
    (project / "src/each.py").write_text(EACH)
    finished = finish([str(project / "src/each.py")], project, {}, 240)
    assert finished.code == 0, finished.err
    assert [line for line in finished.out.splitlines() if line.startswith("refused")] == []
    assert finished.out.count("\nran ") == len(lines)
    assert len(list(project.glob("logs/*/result.json"))) == len(lines)


@pytest.mark.parametrize("word", STREAMS)
def test_a_stream_of_the_page_goes_on_where_it_was_stopped(project: Path, word: str) -> None:
    pytest.importorskip(STREAMS[word])
    if word == "shards":
        (project / "write.py").write_text(WRITE)
        subprocess.run([sys.executable, "write.py"], cwd=project, check=True, capture_output=True)
    (line,) = (line for line in COMMANDS if line.startswith(f"data={word} "))
    words = [*shlex.split(line), "+callbacks.kill._target_=plain.Kill", "model=linear", "threads=1"]

    def train(folder: str, *more: str, **env: str) -> Finished:
        command = [str(project / "src/train.py"), *words, "trainer.max_epochs=3", f"folder={folder}", *more]
        return finish(command, project, env, 120)

    assert train("whole").code == 0
    cut = train("cut", KILL_AT="34", KILL_WITH="15")
    assert cut.code == 128 + 15, cut.err
    assert ("only at the start of an epoch" in cut.out) == (word == "hub")
    assert ("Stopped and saved in epoch 2, after step 34" in cut.err) == (word == "shards")
    assert train("cut", "resume=true").code == 0
    one, other = last_weights(project / "whole"), last_weights(project / "cut")
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_runs_of_a_plain_module_are_swept_and_ranked_by_what_it_logs(run: Run, tmp_path: Path) -> None:
    pytest.importorskip("descent.sweep.engines", reason="a room that may be taken out")
    words = write(tmp_path, SEVEN, "sweep")
    finished = run("-m", *words, "seed=0,1", "trainer.max_epochs=1")
    assert finished.code == 0, finished.out + finished.err
    assert "val_loss at each run's best epoch" in finished.out
