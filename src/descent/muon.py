"""The optimizer `muon`."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch.optim import AdamW, Optimizer

from descent.errors import ConfigError


class Muon(Optimizer):
    """`torch.optim.Muon` for the matrices of a model, `torch.optim.AdamW` for everything else.

    Muon (Jordan et al., 2024, https://kellerjordan.github.io/posts/muon) makes each step of a weight matrix
    orthogonal, which is meaningless for biases and normalisation; torch's class rejects those. The first
    parameter group is Muon's, the second AdamW's, so a scheduler changes both learning rates.

    `adamw_lr` is the learning rate of everything else; the other arguments are those of `torch.optim.Muon`.
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
        coefficients: Any = tuple(ns_coefficients)
        muon = torch.optim.Muon(
            matrices, lr, weight_decay, momentum, nesterov, coefficients, eps, ns_steps, adjust_lr_fn
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
        # schedulers and checkpoints know only this optimizer, so its two parts use its groups and state
        for part, group in zip(self.parts, self.param_groups, strict=True):
            part.param_groups, part.state = [group], self.state
