"""The examples learn what they are about, within seconds, and nothing outside of them knows them."""

import json
import re
from pathlib import Path

import pytest
import torch
from conftest import ROOT, Run
from lightning.pytorch import seed_everything
from torch import nn

NAMES = sorted(path.stem for path in (ROOT / "src/examples").glob("[a-z]*.py"))
SMALL = {
    "gpt": "data.length=32 model.width=32 model.depth=1 trainer.limit_train_batches=30 callbacks.writer.count=40",
    "segmentation": "data.count=200 data.batch_size=8",
    "labels": "data.count=1000",
    "vae": "",
    "gan": "",
    "finetune": "model.name=test_resnet callbacks.unfreeze.epochs=1",
    "distill": "",
}
BETTER = {  # what the last epoch's validation has to reach after three epochs
    "gpt": ("val/perplexity", 0, 25),
    "segmentation": ("val/iou", 0.4, 1),
    "labels": ("val/f1", 0.2, 1),
    "vae": ("val/error", 0, 25),
    "gan": ("val/distance", 0, 0.6),
    "finetune": ("val/acc", 0.2, 1),
    "distill": ("val/acc", 0.75, 1),
}


@pytest.mark.parametrize("name", NAMES)
def test_an_example_learns(run: Run, tmp_path: Path, name: str) -> None:
    words = [f"experiment={name}", *SMALL[name].split(), "trainer.max_epochs=3"]
    if name == "finetune":
        pytest.importorskip("timm")
    if name == "distill":
        teacher = run("trainer.max_epochs=5", f"folder={tmp_path}/teacher")
        assert teacher.code == 0, teacher.err
        words.append(f"module.teacher={tmp_path}/teacher")
    finished = run(*words)
    assert (finished.code, finished.err) == (0, "")
    metric, least, most = BETTER[name]
    result = json.loads((tmp_path / "run/result.json").read_text())
    assert least < result["final"][metric] < most, result
    assert result["test"]
    assert metric in (tmp_path / "run/metrics.csv").read_text()
