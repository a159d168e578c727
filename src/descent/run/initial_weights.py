"""Where a run starts from: another run's weights, and the weights that it does not change."""

import warnings
from collections.abc import Sequence
from fnmatch import fnmatchcase

from torch import nn

from descent.errors import ConfigError
from descent.run.folder import read_run


def start_from(model: nn.Module, init_from: str | None, freeze: Sequence[str]) -> str:
    """Copy weights of another run's best checkpoint where name and shape match, then freeze some.

    A layer whose weights are all frozen goes to evaluation mode as well, so that batch normalisation keeps
    its statistics and dropout is off; Lightning leaves it there.

    Args:
        model: with its initial weights, which stay where nothing matches.
        init_from: the folder of a run, or None.
        freeze: patterns of names, such as "0.*"; `*` stands for anything.

    Returns:
        Lines that say what matched and what is frozen.

    Raises:
        ConfigError: no such run, not one weight that matches, a pattern without a match, or nothing left to
            train.
    """
    lines = []
    if init_from is not None:
        lines += copy_weights(model, init_from)
    names = [name for name, _ in model.named_parameters()]
    for pattern in freeze:
        if not any(fnmatchcase(name, pattern) for name in names):
            shown = ", ".join(names[:12]) + (", …" if len(names) > 12 else "")
            expected = f"a pattern of names among {shown}"
            raise ConfigError("freeze", pattern, expected=expected, choices=names)
    frozen = [name for name in names if any(fnmatchcase(name, pattern) for pattern in freeze)]
    if frozen and len(frozen) == len(names):
        raise ConfigError("freeze", list(freeze), expected="some weights left to train, but all match")
    for name in frozen:
        model.get_parameter(name).requires_grad_(False)
    for module in model.modules():
        own = list(module.parameters())
        if own and not any(parameter.requires_grad for parameter in own):
            module.eval()
    if frozen:
        # Lightning asks whether those layers are meant to be in evaluation mode
        warnings.filterwarnings("ignore", message=r".*in eval mode at the start of training.*")
        lines.append(f"freeze: {len(frozen)} of {len(names)} weights stay as they are: {', '.join(frozen)}")
    return "".join(line + "\n" for line in lines)


def copy_weights(model: nn.Module, folder: str) -> list[str]:
    """Copy what matches; the lines of `start_from`."""
    theirs, ours = read_run(folder, "best", key="init_from").weights("model"), model.state_dict()
    matched = {name: t for name, t in theirs.items() if name in ours and ours[name].shape == t.shape}
    if not matched:
        shown = ", ".join(f"{name} {tuple(t.shape)}" for name, t in list(theirs.items())[:6])
        expected = f"weights of this model, but none has the same name and shape; it has {shown}"
        raise ConfigError("init_from", folder, expected=expected)
    model.load_state_dict(matched, strict=False)
    lines = [f"init_from: {len(matched)} of {len(ours)} weights start from {folder}"]
    for name, weight in ours.items():
        if name not in matched:
            there = f"{tuple(theirs[name].shape)} there" if name in theirs else "not there"
            lines.append(f"  new     {name} {tuple(weight.shape)}, {there}")
    lines += [f"  unused  {name} {tuple(t.shape)}" for name, t in theirs.items() if name not in ours]
    return lines
