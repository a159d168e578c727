"""Runs from Python, with the same checks and the same bits as from the command line."""

import runpy
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from descent.cli.compose import compose as compose_config
from descent.cli.overrides import quote_word
from descent.cli.runs import start
from descent.paths import COMMANDS
from descent.run.folder import RunFolder


@dataclass
class Trained:
    """A finished run."""

    folder: RunFolder
    module: Any  # the LightningModule with its best weights
    metrics: dict[str, float]  # of the test, by name
    result: dict[str, Any]  # the contents of result.json

    def predict(self, inputs: Any) -> Tensor:
        """Return predictions for raw inputs `(n, …)`: probabilities, or values in their own units."""
        with torch.inference_mode():
            return self.module.eval()(torch.as_tensor(inputs).to(self.module.device)).cpu()


def compose(*words: str) -> list[str]:
    """Return a run's overrides, such as `compose("loss=mae", "optimizer=sgd")`, for `train`."""
    quoted = [quote_word(word, sweeps=False) for word in words]
    compose_config("train", quoted)
    return quoted


def train(words: list[str]) -> Trained:
    """Train as `python src/train.py` does with these overrides; raise `Stopped` if the run ends early."""
    recorder, trainer = start(load_job(), words)
    folder, result = RunFolder(trainer.default_root_dir), recorder.result
    return Trained(folder, trainer.lightning_module, result.get("test", {}), result)


def load_job() -> Callable[..., Any]:
    """Return the function `train` of src/train.py."""
    file = COMMANDS / "train.py"
    if str(file.parent) not in sys.path:
        sys.path.append(str(file.parent))  # where the user's own modules are
    return runpy.run_path(str(file))["train"]
