"""What data takes over from that of the run whose weights are the start, so that each weight means the same.

`like` is what `DataModule.describe` told of that run, with its folder as "run" and the buffers of its
`Scaling` as "scaling".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from descent.errors import ConfigError
from descent.scaling import Scaling

if TYPE_CHECKING:
    from descent.data.samples import Samples

KINDS = {"classification": "classes", "regression": "values"}


def order_targets(samples: Samples, like: Mapping[str, Any]) -> Samples:
    """Return the samples with their classes or target values in the other run's order.

    Classes that it has and these samples have not are kept, without a sample. Targets that are not the
    other run's stay as they are: the last layer has to start anew.

    Raises:
        ConfigError: classes where the other run has values, or the other way round.
    """
    task = "regression" if samples.targets.is_floating_point() else "classification"
    if task != like["task"]:
        theirs, ours = KINDS[like["task"]], KINDS[task]
        expected = f"{theirs} as targets, for init_from={like['run']} learned {theirs}, not {ours}"
        raise ConfigError("data", expected=expected)
    own, names = list(samples.names), list(like["names"])
    if task == "regression" and sorted(own) == sorted(names):
        return replace(samples, targets=samples.targets[:, [own.index(name) for name in names]], names=names)
    if task == "classification" and set(own) <= set(names):
        place = torch.tensor([names.index(name) for name in own])
        targets = torch.where(samples.targets < 0, samples.targets, place[samples.targets])
        return replace(samples, targets=targets, names=names)
    return samples


def take_scaling(scaling: Scaling, like: Mapping[str, Any], same_targets: bool) -> None:
    """Copy the other run's mean and deviation where they fit.

    Args:
        scaling: fitted on the training split; it is changed.
        like: see above.
        same_targets: whether the targets are those of the other run.
    """
    for name, ours in scaling.named_buffers():
        theirs = like["scaling"].get(name)
        fits = theirs is not None and theirs.shape == ours.shape
        if fits and (same_targets or name.startswith("input_")):
            ours.copy_(theirs)
