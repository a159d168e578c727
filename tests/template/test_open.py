"""Whatever works in plain Lightning works here, named by `_target_` in one YAML file."""

import csv
import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import Run
from torch import Tensor

HERE = "template.plain_parts"
CLASSES = {  # a model and what goes with it, where the data says nothing of itself
    "model": {"_target_": "torch.nn.Linear", "in_features": 2, "out_features": 2},
    "loss": {"_target_": "torch.nn.CrossEntropyLoss"},
    "metrics": {"acc": {"_target_": "descent.metrics.Accuracy"}},
}
PLAIN: dict[str, dict[str, Any]] = {  # by name: the parts, and what is monitored
    "a module of seven lines": {"module": f"{HERE}.Seven", "data": f"{HERE}.TwoLoaders"},
    "two optimizers by hand": {"module": f"{HERE}.Pair", "data": f"{HERE}.Tested", "monitor": "val_gap"},
    "two loaders": {"data": f"{HERE}.TwoLoaders", **CLASSES},
    "a stream with workers": {"data": f"{HERE}.Streams", **CLASSES},
    "datasets": {"data": f"{HERE}.OfHuggingFace", **CLASSES},
    "torchvision": {"module": f"{HERE}.Seven", "data": f"{HERE}.OfTorchvision"},
}


def write(folder: Path, parts: dict[str, Any], name: str = "mine") -> list[str]:
    """Write one YAML file that puts parts together, and return the words that choose it."""
    nodes = {key: {"_target_": part} if key in ("module", "data") else part for key, part in parts.items()}
    cleared = [{f"override /{group}": None} for group in nodes if group not in ("monitor", "callbacks")]
    file = folder / "conf/experiment" / f"{name}.yaml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("# @package _global_\n" + yaml.safe_dump({"defaults": cleared, **nodes}, sort_keys=False))
    return [
        "--config-dir",
        str(folder / "conf"),
        f"experiment={name}",
        "threads=1",
        "trainer.accelerator=cpu",
    ]


def weights(folder: Path, of: str = "last") -> dict[str, Tensor]:
    return torch.load(folder / f"checkpoints/{of}.ckpt", weights_only=True)["state_dict"]


@pytest.mark.parametrize("name", PLAIN)
def test_plain_parts_are_trained_recorded_monitored_and_resumed(run: Run, tmp_path: Path, name: str) -> None:
    if name in ("datasets", "torchvision") and find_spec(name) is None:
        pytest.skip(f"{name} is not installed")
    parts = {**PLAIN[name], "callbacks": {"stop": {"_target_": f"{HERE}.StopOnce", "epoch": 1, "batch": 4}}}
    words = [*write(tmp_path, parts), "trainer.max_epochs=3"]
    (tmp_path / "stopped").touch()
    whole = run(*words, f"folder={tmp_path}/whole")
    assert (whole.code, whole.err) == (0, "")

    result = json.loads((tmp_path / "whole/result.json").read_text())
    with (tmp_path / "whole/metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    monitor = parts.get("monitor") or ("val_loss" if "Seven" in str(parts) else "val/loss")
    values = [float(row[monitor]) for row in rows]
    assert len(values) == 3
    assert result["best"][monitor] == min(values)
    assert f"Epoch 3/3, {'Train Loss' if monitor == 'val/loss' else monitor}: " in whole.out
    assert set(weights(tmp_path / "whole", "best")) == set(weights(tmp_path / "whole"))
    assert whole.out.count("no start_at") == 1  # what resuming costs, once
    tested = "Seven" not in str(parts) and "TwoLoaders" not in str(parts)
    assert ("test" in result) == tested == ("No test, because" not in whole.out)

    (tmp_path / "stopped").unlink()
    assert run(*words, f"folder={tmp_path}/cut").code == 128 + 15
    again = run(*words, f"folder={tmp_path}/cut", "resume=true")
    assert again.code == 0, again.err
    one, other = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    assert all(torch.equal(one[key], other[key]) for key in one)
