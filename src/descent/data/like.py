"""What a run adopts from the run whose weights it starts from, so that each weight keeps its meaning."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from descent.data.samples import Samples
from descent.errors import ConfigError


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
