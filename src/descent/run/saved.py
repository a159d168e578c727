"""Reads a run back: its config and its weights, checked for everything that other code relies on."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from descent.errors import ConfigError
from descent.run.checkpoints import read
from descent.run.folder import RunFolder
from descent.run.trust import read_yaml

DATA = {"task", "input_shape", "names", "class_counts", "reader", "examples"}  # to read new files by


@dataclass
class SavedRun:
    """A run read from disk: its config and one of its checkpoints, both plain values and tensors."""

    folder: RunFolder
    config: dict[str, Any]
    checkpoint: dict[str, Any]
    allowed: Collection[str] = ()  # names that its config may use

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
        scaling, task = self.weights("scaling"), self.weights("task")
        return {**self.data, "scaling": scaling, "task_state": task, "run": str(self.folder)}


def find_runs(parent: Path) -> list[RunFolder]:
    """Return the runs in a folder, at any depth, newest first."""
    runs = [RunFolder(path.parent) for path in parent.rglob("overrides.yaml")]
    runs = [run for run in runs if run.config.is_file()]
    return sorted(runs, key=lambda run: run.config.stat().st_mtime_ns, reverse=True)


def read_config(folder: RunFolder, key: str = "resume") -> dict[str, Any]:
    """Return the config of a run, plain values.

    Raises:
        ConfigError: not a run's folder, or a file of another kind.
    """
    if not folder.config.exists():
        siblings = [p.name for p in folder.path.parent.glob("*") if p.is_dir()]
        expected = "a run's folder, with config.yaml in it"
        raise ConfigError(key, str(folder), expected=expected, choices=siblings, meant=folder.path.name)
    config = read_yaml(folder.config)
    groups = ("data", "model", "loss", "module", "optimizer", "trainer", "callbacks")
    if not isinstance(config, dict) or not all(isinstance(config.get(group), dict) for group in groups):
        raise ConfigError(key, str(folder), expected="a run of this template; config.yaml describes none")
    return config


def read_run(path: str | Path, weights: str, key: str = "run") -> SavedRun:
    """Return a run's config and its "best" or "last" checkpoint; `key` names the folder in errors.

    Raises:
        ConfigError: not a run's folder, one without that checkpoint, or files of another kind.
    """
    folder = RunFolder(Path(path).expanduser())
    config, file = read_config(folder, key), folder.weights(weights)
    if not file.exists():
        there = ", ".join(sorted(p.stem for p in folder.checkpoints.glob("*.ckpt"))) or "no checkpoint"
        raise ConfigError(key, str(path), expected=f"{file}; there is {there}")
    checkpoint = read(file)
    if not is_described(checkpoint):
        expected = "a run whose data has a method describe(), as FromSamples does"
        raise ConfigError(key, str(path), expected=expected)
    return SavedRun(folder, config, checkpoint)


def is_described(checkpoint: Mapping[str, Any]) -> bool:
    """Whether a checkpoint contains weights, and how its data is read."""
    return "state_dict" in checkpoint and checkpoint.get("data", {}).keys() >= DATA
