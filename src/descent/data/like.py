"""What a run adopts from the run whose weights it starts from, so that each weight keeps its meaning."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from descent.data.samples import Samples
from descent.data.scaling import Scaling
from descent.errors import ConfigError
from descent.task import Task


def order_targets(samples: Samples, kind: str, like: Mapping[str, Any]) -> Samples:
    """Return the samples with their classes or target values in the other run's order.

    Classes that only the other run has are kept, without samples. If the targets are different ones, they
    stay unchanged, because the last layer has to be initialised afresh.
    """
    theirs = str(like["task"]["_target_"]).rpartition(".")[2].lower()
    if kind != theirs:
        expected = f"{theirs} as targets, because init_from={like['run']} learned {theirs}, not {kind}"
        raise ConfigError("data", expected=expected)
    own, names, targets = list(samples.names), list(like["names"]), samples.targets
    if kind != "classes" and sorted(own) == sorted(names):
        return replace(samples, targets=targets[:, [own.index(name) for name in names]], names=names)
    if kind == "classes" and set(own) <= set(names):
        place = torch.tensor([names.index(name) for name in own])
        return replace(samples, targets=torch.where(targets < 0, targets, place[targets]), names=names)
    return samples


def adopt_units(scaling: Scaling, task: Task, like: Mapping[str, Any]) -> None:
    """Copy the other run's means and deviations, of inputs and of the same values, where they fit."""
    same = task.names == list(like["names"])
    for module, theirs in ((scaling, like["scaling"]), (task, like["task_state"] if same else {})):
        for name, ours in module.named_buffers():
            if name in theirs and theirs[name].shape == ours.shape:
                ours.copy_(theirs[name])


def compare_data(now: Mapping[str, Any], before: Mapping[str, Any]) -> str:
    """Return, in words, what differs between two descriptions of data; "" if nothing does."""
    named = [n for n in now if n not in ("examples", "fingerprint") and before.get(n) != now[n]]
    if not named and before.get("fingerprint") != now.get("fingerprint"):
        return "the samples have different values or a different order"
    return "; ".join(f"{n} was {str(before.get(n))[:80]} and is {str(now[n])[:80]}" for n in named)
