"""What a run does not do, so that it is fast: counted, not timed."""

import os
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from torch import nn

from descent.cli.load import Load
from descent.data.digits import digits
from descent.data.samples import FromSamples
from descent.models import MLP
from descent.module import Supervised
from descent.trainer import Trainer


def test_no_step_on_the_cpu_asks_for_a_gpus_driver(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[str] = []

    def count_devices() -> int:
        asked.append("driver")
        return 0

    monkeypatch.setattr(torch.cuda, "device_count", count_devices)
    sizes = {"batch_size": 256, "eval_batch_size": 512, "val_fraction": 0.1, "test_fraction": 0.1}
    data = FromSamples(digits, **sizes, seed=0, label_noise=0.0, fold=None, folds=5)  # type: ignore[arg-type]
    optimizer = partial(torch.optim.Adam, lr=0.01)  # not fused: torch's own step runs
    counts = []
    for epochs in (1, 5):
        monkeypatch.setenv("PYTORCH_NVML_BASED_CUDA_CHECK", "1")  # as Lightning sets it
        asked.clear()
        model = MLP(data.input_shape, data.outputs, hidden=[8], dropout=0.0)
        module = Supervised(model, nn.CrossEntropyLoss(), optimizer, None, {}, data.scaling)
        trainer = Trainer(
            loop="lean",
            compile=False,
            accelerator="cpu",
            max_epochs=epochs,
            logger=False,
            default_root_dir=tmp_path,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(module, data)
        counts.append(len(asked))
    assert counts[0] == counts[1]


LOOK = """
import atexit, os, runpy, sys, torch
sys.argv = sys.argv[1:]
atexit.register(lambda: print("threads", torch.get_num_threads(), os.environ["GOMP_SPINCOUNT"]))
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.parametrize(("word", "code", "lines"), [("seed=1", 0, 0), ("optimizer.lr=-1", 2, 1)])
def test_a_process_ends_at_once_and_quietly_with_all_that_it_has_printed(
    tmp_path: Path, word: str, code: int, lines: int
) -> None:
    words = [word, "trainer.max_epochs=1", "trainer.accelerator=cpu", f"folder={tmp_path}/run"]
    # a process of its own, for one that is forked from another never takes itself apart
    finished = subprocess.run(
        [sys.executable, "-c", LOOK, str(ROOT / "src/train.py"), *words],
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == code
    assert len(finished.stderr.splitlines()) == lines, finished.stderr
    # small batches have one thread; how several wait for each other depends on what else the machine does
    assert finished.stdout.splitlines()[-1] in ("threads 1 30000", "threads 1 0")
    assert code or finished.stdout.splitlines()[-2].startswith("TensorBoard: ")


@pytest.mark.parametrize(("share", "spin"), [(0.0, "30000"), (0.3, "30000"), (0.5, "0"), (1.0, "0")])
def test_threads_sleep_at_once_where_other_programs_take_the_cores(
    share: float, spin: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks, cores = os.sysconf("SC_CLK_TCK"), os.cpu_count() or 1
    clock = {"now": 0.0, "own": 0.0}
    monkeypatch.setattr(time, "monotonic", lambda: clock["now"])
    monkeypatch.setattr(time, "process_time", lambda: clock["own"])
    statistics = tmp_path / "stat"

    def write(worked: float) -> None:  # user, nice, system, idle, waiting, and interrupts of three kinds
        statistics.write_text(
            f"cpu  {round(worked * ticks)} 7 0 {round(clock['now'])} 9 0 0 0 0 0\ncpu0 1 2\n"
        )

    write(50.0)
    load = Load(statistics)
    clock.update(now=10.0, own=10.0)
    write(50.0 + 10.0 + 10.0 * cores * share)
    assert load.choose_spin() == spin


def test_a_machine_that_does_not_tell_its_load_counts_as_idle(tmp_path: Path) -> None:
    assert Load(tmp_path / "none").choose_spin() == "30000"
    (tmp_path / "stat").write_text("cpu 1 2\n")
    assert Load(tmp_path / "stat").choose_spin() == "30000"
