"""Runs from Python: the same checks and the same bits as the command's."""

import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from descent.cli.overrides import quote_words
from descent.cli.runs import start
from descent.errors import ConfigError
from descent.paths import find_command
from descent.run.folder import RunFolder


@dataclass
class Trained:
    """A run that has ended.

    Attributes:
        folder: of the run.
        module: the LightningModule with its best weights.
        metrics: of the test, by name.
        result: what result.json contains.
    """

    folder: RunFolder
    module: Any
    metrics: dict[str, float]
    result: dict[str, Any]

    def predict(self, inputs: Any) -> Tensor:
        """Return what the module gives for raw inputs `(n, …)`: probabilities, or values in their units."""
        with torch.inference_mode():
            return self.module.eval()(torch.as_tensor(inputs).to(self.module.device)).cpu()


def compose(*words: str) -> list[str]:
    """Return the overrides of a run, such as `compose("loss=mae", "optimizer=sgd")`, for `train`.

    Raises:
        ConfigError: one that is no override, or that names no key or word of conf/.
    """
    from descent.cli.compose import compose as compose_config

    if flags := [word for word in words if word.startswith("-")]:
        raise ConfigError(flags[0], expected="an override; sweeps and flags are the command's")
    quoted = quote_words(words, sweeps=False)
    compose_config("train", [word for word in quoted if not word.startswith("resume=")])
    return quoted


def train(words: list[str]) -> Trained:
    """Train as `python src/train.py` does with these overrides.

    Raises:
        ConfigError: a value that does not fit.
        Stopped: the run ended early, such as by a loss of NaN.
    """
    folders: list[RunFolder] = []
    job = load_job()

    def keep(config: Any, run: Any) -> Any:
        folders.append(run.folder)
        return job(config, run)

    recorder, trainer = start(keep, words)
    result = recorder.result
    return Trained(folders[0], trainer.lightning_module, result.get("test", {}), result)


def load_job() -> Callable[..., Any]:
    """Return the function `train` of src/train.py."""
    file = find_command("train")
    if str(file.parent) not in sys.path:
        sys.path.append(str(file.parent))  # where modules of one's own are
    spec = importlib.util.spec_from_file_location("descent_train", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.train
