"""Reads a run back: its config and its weights, checked for everything that other code relies on."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from descent.errors import ConfigError
from descent.run.checkpoints import read
from descent.run.folder import RunFolder
from descent.run.trust import read_yaml

DATA = {"task": dict, "input_shape": list, "names": list, "class_counts": list, "reader": dict}


@dataclass
class SavedRun:
    """A run read from disk: its config and one of its checkpoints, both plain values and tensors.

    `allowed` lists the names that its config may use, once they have been set.
    """

    folder: RunFolder
    config: dict[str, Any]
    checkpoint: dict[str, Any]
    allowed: Collection[str] = ()

    @property
    def data(self) -> dict[str, Any]:
        """Return the data's description from `FromSamples.describe`, with raw "examples"."""
        return self.checkpoint["data"]

    def weights(self, of: str) -> dict[str, Any]:
        """Return the weights of "model", "criterion", "scaling" or "task", by name."""
        state = self.checkpoint["state_dict"]
        return {name.removeprefix(f"{of}."): t for name, t in state.items() if name.startswith(f"{of}.")}

    def like(self) -> dict[str, Any]:
        """Return the argument `like` for data to read in the same way as this run's; see `FromSamples`."""
        parts = {part: self.weights(part) for part in ("scaling", "task")}
        return {
            **self.data,
            "scaling": parts["scaling"],
            "task_state": parts["task"],
            "run": str(self.folder),
        }


def read_config(folder: RunFolder, key: str = "resume") -> dict[str, Any]:
    """Return the config of a run, plain values.

    Raises:
        ConfigError: not a run's folder, or a file of another kind.
    """
    if not folder.config.exists():
        siblings = [p.name for p in folder.path.parent.glob("*") if p.is_dir()]
        expected = f"a run's folder, with {folder.config.name} in it"
        raise ConfigError(key, str(folder), expected=expected, choices=siblings, meant=folder.path.name)
    config = read_yaml(folder.config)
    groups = ("data", "model", "loss", "module", "optimizer", "trainer", "callbacks")
    if not isinstance(config, dict) or not all(isinstance(config.get(group), dict) for group in groups):
        raise ConfigError(key, str(folder), expected=f"a run of this template; {folder.config.name} is none")
    return config


def read_run(path: str | Path, weights: str, key: str = "run") -> SavedRun:
    """Return a run's config and one of its checkpoints.

    Args:
        path: the folder's path.
        weights: "best" or "last".
        key: the config key that names the folder, for errors.

    Raises:
        ConfigError: not a run's folder, one without that checkpoint, or files of another kind.
    """
    folder = RunFolder(Path(path).expanduser())
    config, file = read_config(folder, key), folder.weights(weights)
    if not file.exists():
        there = ", ".join(sorted(p.stem for p in folder.checkpoints.glob("*.ckpt"))) or "no checkpoint"
        raise ConfigError(key, str(path), expected=f"{file}; there is {there}")
    checkpoint = read(file)
    if "data" not in checkpoint and "state_dict" in checkpoint:
        expected = "a run whose data has a method describe(), as FromSamples has, to read new files by"
        raise ConfigError(key, str(path), expected=expected)
    if (wrong := find_fault(checkpoint)) is not None:
        expected = f"a checkpoint of this template; {file.name} is of something else ({wrong})"
        raise ConfigError(key, str(path), expected=expected)
    return SavedRun(folder, config, checkpoint)


def find_fault(checkpoint: Mapping[str, Any]) -> str | None:
    """Return what is missing from a checkpoint that a run's checkpoint contains; None if nothing is."""
    state, data = checkpoint.get("state_dict"), checkpoint.get("data")
    if not isinstance(state, dict) or not all(is_plain_tensor(t) for t in state.values()):
        return "its weights are not tensors"
    if not isinstance(data, dict):
        return "it does not describe its data"
    for name, kind in DATA.items():
        if not isinstance(data.get(name), kind):
            return f"its data's {name} is not a {kind.__name__}"
    if not is_plain_tensor(data.get("examples")):
        return "its data's examples are not a tensor"
    if not all(isinstance(size, int) and size >= 1 for size in data["input_shape"]):
        return "its data's input_shape is not a list of sizes"
    if not all(isinstance(name, str) for name in data["names"]):
        return "its data's names are not texts"
    if not isinstance(data["task"].get("_target_"), str) or data["task"].get("names") != data["names"]:
        return "its data's task is none"
    missing = [name for name in ("mean", "std") if f"scaling.{name}" not in state]
    return f"it has no scaling.{missing[0]}" if missing else None


def is_plain_tensor(value: object) -> bool:
    """Whether a value is a dense, contiguous tensor of real numbers."""
    if not isinstance(value, torch.Tensor) or value.is_meta or value.is_complex():
        return False
    return value.layout == torch.strided
