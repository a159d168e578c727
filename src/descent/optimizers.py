"""Optimizers that torch does not offer for a whole model."""

from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any

import torch
from lightning.pytorch import Trainer
from torch import nn
from torch.optim import AdamW, Optimizer

from descent.errors import ConfigError


class Muon(Optimizer):
    """`torch.optim.Muon` for the matrices of a model, `torch.optim.AdamW` for everything else.

    Muon (Jordan et al., 2024, https://kellerjordan.github.io/posts/muon) makes each step of a weight matrix
    orthogonal, which means nothing for biases and normalisation; torch's class refuses those. The first
    parameter group is Muon's, the second AdamW's, so a scheduler changes both learning rates.

    Args:
        params: the model's parameters.
        lr: learning rate of the matrices.
        weight_decay, momentum, nesterov, ns_coefficients, eps, ns_steps, adjust_lr_fn: those of
            `torch.optim.Muon`.
        adamw_lr: learning rate of everything else.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        lr: float,
        weight_decay: float,
        momentum: float,
        nesterov: bool,
        ns_coefficients: tuple[float, float, float],
        eps: float,
        ns_steps: int,
        adjust_lr_fn: str | None,
        adamw_lr: float,
    ) -> None:
        if not hasattr(torch.optim, "Muon"):
            expected = f"another one, or torch 2.9 or later, which has it; this is {torch.__version__}"
            raise ConfigError("optimizer", "muon", expected=expected)
        params = list(params)
        if isinstance(params[0], dict):
            expected = "another one with module.groups, because Muon makes groups of its own"
            raise ConfigError("optimizer", "muon", expected=expected)
        matrices, others = [p for p in params if p.ndim == 2], [p for p in params if p.ndim != 2]
        if not matrices:
            raise ConfigError("optimizer", "muon", expected="a model with weight matrices; this one has none")
        muon = torch.optim.Muon(
            matrices,
            lr=lr,
            weight_decay=weight_decay,
            momentum=momentum,
            nesterov=nesterov,
            ns_coefficients=tuple(ns_coefficients),  # type: ignore[arg-type]
            eps=eps,
            ns_steps=ns_steps,
            adjust_lr_fn=adjust_lr_fn,
        )
        self.parts: list[Optimizer] = [muon, *([AdamW(others, lr=adamw_lr)] if others else [])]
        super().__init__([group for part in self.parts for group in part.param_groups], {})
        self._share()

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step with both optimizers; return the closure's loss, if there is a closure."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part in self.parts:
            part.step()
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self._share()

    def _share(self) -> None:
        # schedulers and checkpoints know this optimizer alone, so its two parts use its groups and state
        for part, group in zip(self.parts, self.param_groups, strict=True):
            part.param_groups, part.state = [group], self.state


def group_parameters(
    model: nn.Module, criterion: nn.Module, groups: Mapping[str, Any], lr: float | None = None
) -> list[dict[str, Any]]:
    """Return parameter groups as `torch.optim` takes them, from patterns of names.

    Args:
        model: whose parameters are named as in `model.named_parameters()`.
        criterion: whose parameters, if it has any, are named `criterion.…`.
        groups: fields of a group, such as `{"weight_decay": 0}`, by a pattern such as `*.bias`, or by several
            with spaces between them. The word `vectors` stands for parameters of at most one dimension:
            biases and norms. A parameter gets the fields of all patterns that fit; of a field that several
            have, the first counts. The field `lr_decay` multiplies the rate from a layer to the one before.
        lr: of the optimizer, where a group has none.

    Raises:
        ConfigError: a pattern that no parameter's name fits.
    """
    named = dict(model.named_parameters())
    named |= {f"criterion.{name}": p for name, p in criterion.named_parameters()}
    for patterns in groups:
        fits = any(belongs(name, p, patterns) for name, p in named.items())
        if not fits:
            raise ConfigError("groups", patterns, expected="a pattern of the weights' names", choices=named)
    layers = list(dict.fromkeys(name.rpartition(".")[0] for name in named))
    found: dict[str, dict[str, Any]] = {
        "{}": {"params": []}
    }  # first, because its rate is the one that is shown
    for name, parameter in named.items():
        fields: dict[str, Any] = {}
        for patterns, more in groups.items():
            if belongs(name, parameter, patterns):
                fields = {**more, **fields}
        if (decay := fields.pop("lr_decay", None)) is not None:
            above = len(layers) - 1 - layers.index(name.rpartition(".")[0])
            fields["lr"] = fields.get("lr", lr) * decay**above
        found.setdefault(str(fields), {"params": [], **fields})["params"].append(parameter)
    return [group for group in found.values() if group["params"]]


def belongs(name: str, parameter: nn.Parameter, patterns: str) -> bool:
    """Whether a parameter belongs to one of some patterns."""
    words = str(patterns).split()
    return any(fnmatchcase(name, w) or (w == "vectors" and parameter.ndim <= 1) for w in words)


def require_clippable(optimizer: Optimizer, trainer: Trainer | None) -> None:
    """Refuse a fused optimizer if gradients of precision 16-mixed are to be clipped.

    It unscales them itself, within its step, which is too late for clipping.
    """
    fused = any(group.get("fused") for group in optimizer.param_groups)
    if trainer and fused and trainer.precision == "16-mixed" and trainer.gradient_clip_val:
        expected = "null, because in 16-mixed a fused optimizer is too late for trainer.gradient_clip_val"
        raise ConfigError("optimizer.fused", True, expected=expected)
