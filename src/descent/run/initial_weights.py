"""The weights that a run starts from, and those that it keeps frozen."""

import warnings
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from textwrap import shorten
from typing import Any

from torch import nn

from descent.errors import ConfigError
from descent.run.saved import SavedRun


def start_from(model: nn.Module | None, origin: SavedRun | None, data: Any, freeze: Sequence[str]) -> str:
    """Copy weights from another run's best checkpoint where name and shape match, then freeze some.

    Args:
        model: with its initial weights, which stay if nothing matches; None if the module makes its own.
        origin: the run that the weights come from, or None.
        data: the names of its targets decide whether the last layer is initialised afresh.
        freeze: patterns of names, such as "0.*"; `*` stands for anything.

    Returns:
        Lines that name what matched and what is frozen.
    """
    if model is None:
        key = "init_from" if origin else "freeze"
        raise ConfigError(key, expected="a module that takes a model, because these are a model's weights")
    lines = copy_weights(model, origin, list(getattr(data, "names", []))) if origin else []
    lines += freeze_weights(model, freeze) if freeze else []
    return "".join(line + "\n" for line in lines)


def copy_weights(model: nn.Module, run: SavedRun, targets: list[str]) -> list[str]:
    """Copy matching weights, and return lines that name the matches and mismatches on both sides."""
    theirs, ours, names = run.weights("model"), model.state_dict(), run.data["names"]
    matched = {name: t for name, t in theirs.items() if name in ours and ours[name].shape == t.shape}
    if not matched:
        shown = show(f"{name} {tuple(t.shape)}" for name, t in theirs.items())
        expected = f"weights of this model, but none has the same name and shape; it has {shown}"
        raise ConfigError("init_from", str(run.folder), expected=expected)
    lines = []
    if targets != names:
        last = list(theirs)[-1].rpartition(".")[0]
        matched = {name: t for name, t in matched.items() if name.rpartition(".")[0] != last}
        lines = [f"  targets {show(targets)}; there {show(names)}: the last layer is initialised afresh"]
    model.load_state_dict(matched, strict=False)
    for name, weight in ours.items():
        if name not in matched:
            there = f"{tuple(theirs[name].shape)} there" if name in theirs else "not there"
            lines.append(f"  new     {name} {tuple(weight.shape)}, {there}")
    lines += [f"  unused  {name} {tuple(t.shape)}" for name, t in theirs.items() if name not in ours]
    return [f"init_from: {len(matched)} of {len(ours)} weights start from {run.folder}", *lines]


def freeze_weights(model: nn.Module, patterns: Sequence[str]) -> list[str]:
    """Freeze the weights whose names match, and return a line that names them.

    A layer whose weights are all frozen also switches to evaluation mode, so that batch normalisation keeps
    its statistics and dropout is off; Lightning leaves it there.
    """
    weights = dict(model.named_parameters())
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in weights):
            expected = f"a pattern of names among {show(weights)}"
            raise ConfigError("freeze", pattern, expected=expected, choices=weights)
    frozen = [name for name in weights if any(fnmatchcase(name, pattern) for pattern in patterns)]
    if len(frozen) == len(weights):
        raise ConfigError("freeze", list(patterns), expected="some weights left to train, but all match")
    for name in frozen:
        weights[name].requires_grad_(False)
    for module in model.modules():
        own = list(module.parameters())
        if own and not any(weight.requires_grad for weight in own):
            module.eval()
    # Lightning would warn that those layers are in evaluation mode
    warnings.filterwarnings("ignore", message=r".*in eval mode at the start of training.*")
    return [f"freeze: {len(frozen)} of {len(weights)} weights stay as they are: {', '.join(frozen)}"]


def show(names: Iterable[str]) -> str:
    """Return names as text, only the first few if there are many."""
    return shorten(", ".join(names), 200, placeholder=" …")
