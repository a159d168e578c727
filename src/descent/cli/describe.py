"""What a run is, in texts and plain values that are taken from its config before it starts."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from descent.cli.words import escape
from descent.run.folder import RunFolder
from descent.run.resume import flatten, is_set, read_config

TRAINER = ("max_epochs", "precision", "accumulate_grad_batches", "gradient_clip_val")


def describe_files(config: DictConfig, words: list[str], folder: RunFolder) -> dict[Path, str]:
    """Return the first texts in a run's folder, by path: its config, resolved, and its words.

    The config's `folder` becomes this one.
    """
    set_text(config, "folder", str(folder.path))
    return {
        folder.config: OmegaConf.to_yaml(config, resolve=True),
        folder.overrides: OmegaConf.to_yaml(OmegaConf.create(words)),
    }


def set_text(config: DictConfig, key: str, text: str) -> None:
    """Set a field to a text in which OmegaConf sees no references."""
    config[key] = escape(text)


def list_hyperparameters(config: Mapping[str, Any], chosen: Mapping[str, str]) -> dict[str, Any]:
    """Return what runs are compared by, by key, the most telling ones first.

    Args:
        config: plain values.
        chosen: the word of each group.
    """
    first = {"loss": chosen["loss"], "optimizer": chosen["optimizer"]}
    first |= {"optimizer.lr": config["optimizer"].get("lr"), "seed": config["seed"]}
    groups = ("loss", "optimizer", "scheduler", "model", "data")
    values = {group: chosen[group] for group in groups}
    for group in groups:
        fields = flatten(config[group] or {}, f"{group}.")
        values |= {key: value for key, value in fields if value is not None and "._" not in key}
    values |= {f"trainer.{name}": config["trainer"].get(name) for name in TRAINER}
    return {**first, **values}


def list_monitors(config: Mapping[str, Any]) -> dict[str, str]:
    """Return every field of a config that names a metric to monitor, by key."""
    nodes = {"monitor": config, "scheduler.monitor": config["scheduler"]}
    nodes |= {f"callbacks.{name}.monitor": callback for name, callback in config["callbacks"].items()}
    found = {key: (node or {}).get("monitor") for key, node in nodes.items()}
    return {key: value for key, value in found.items() if value is not None}


def list_changes(config: Mapping[str, Any], folder: RunFolder, typed: Collection[str]) -> dict[str, Any]:
    """Return the values that differ from those of the run in a folder, by key.

    Args:
        config: plain values.
        folder: of the run.
        typed: the keys that were typed; of those that were not, the optimizer's alone can differ in effect.
    """
    before = dict(flatten(read_config(folder)))
    changed = [key for key, value in flatten(config) if value != before.get(key)]
    own = [key for key in changed if key.startswith("optimizer.") or is_set(key, typed)]
    values = dict(flatten(config))
    return {key: values[key] for key in own if key not in ("name", "folder", "resume")}
