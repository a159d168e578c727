"""What is taken over from the run whose weights are the start, so that each weight means the same."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from descent.data.samples import Samples
from descent.errors import ConfigError


def order_targets(samples: Samples, kind: str, like: Mapping[str, Any]) -> Samples:
    """Return the samples with their classes or target values in the other run's order.

    Classes that it has and these samples have not are kept, without a sample. Targets that are not the
    other run's stay as they are: the last layer has to start anew.
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
