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

    Raises:
        ConfigError: classes where the other run has values, or the other way round.
    """
    theirs = str(like["task"]["_target_"]).rpartition(".")[2].lower()
    if kind != theirs:
        expected = f"{theirs} as targets, because init_from={like['run']} learned {theirs}, not {kind}"
        raise ConfigError("data", expected=expected)
    own, names = list(samples.names), list(like["names"])
    if kind != "classes" and sorted(own) == sorted(names):
        return replace(samples, targets=samples.targets[:, [own.index(name) for name in names]], names=names)
    if kind == "classes" and set(own) <= set(names):
        place = torch.tensor([names.index(name) for name in own])
        targets = torch.where(samples.targets < 0, samples.targets, place[samples.targets])
        return replace(samples, targets=targets, names=names)
    return samples
