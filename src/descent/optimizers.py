"""Groups of parameters, each with its own optimizer settings."""

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from descent.errors import ConfigError


def group_parameters(
    model: nn.Module, criterion: nn.Module, groups: Mapping[str, Any], lr: float | None = None
) -> list[dict[str, Any]]:
    """Return parameter groups as `torch.optim` takes them, from patterns of names.

    Args:
        groups: fields of a group, such as `{"weight_decay": 0}`, by a pattern such as `*.bias`, or by several
            with spaces between them; `vectors` are parameters of at most one dimension, `criterion.*` those
            of the criterion. A parameter gets the fields of all patterns that match; where several set the
            same field, the first counts. `lr_decay` multiplies the rate from each layer to the one before.
        lr: the optimizer's learning rate, for groups without their own.
    """
    named = dict(model.named_parameters())
    named |= {f"criterion.{name}": p for name, p in criterion.named_parameters()}
    for patterns in groups:
        if not any(belongs(name, p, patterns) for name, p in named.items()):
            raise ConfigError(
                "groups", patterns, expected="a pattern that matches names of weights", choices=named
            )
    layers = list(dict.fromkeys(name.rpartition(".")[0] for name in named))
    # the group without fields comes first, because its rate is the one shown
    found: dict[str, dict[str, Any]] = {"{}": {"params": []}}
    for name, parameter in named.items():
        fields: dict[str, Any] = {}
        for patterns, more in groups.items():
            fields = {**more, **fields} if belongs(name, parameter, patterns) else fields
        if (decay := fields.pop("lr_decay", None)) is not None:
            above = len(layers) - 1 - layers.index(name.rpartition(".")[0])
            fields["lr"] = fields.get("lr", lr) * decay**above
        found.setdefault(str(fields), {"params": [], **fields})["params"].append(parameter)
    return [group for group in found.values() if group["params"]]


def belongs(name: str, parameter: nn.Parameter, patterns: str) -> bool:
    """Whether a parameter matches any of some patterns."""
    words = str(patterns).split()
    return any(fnmatchcase(name, w) or (w == "vectors" and parameter.ndim <= 1) for w in words)
