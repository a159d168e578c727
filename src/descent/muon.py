"""The optimizer `muon`, which needs torch 2.9."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from descent.errors import require


class Muon(torch.optim.Muon):
    """`torch.optim.Muon` for the matrices of a model, `torch.optim.AdamW` for everything else.

    Muon (Jordan et al., 2024, https://kellerjordan.github.io/posts/muon) makes each step of a weight matrix
    orthogonal, which is meaningless for biases and normalisation. The first parameter group is Muon's, the
    second AdamW's, with the learning rate `adamw_lr`, so a scheduler changes both learning rates.
    """

    def __init__(self, params: Iterable[nn.Parameter], adamw_lr: float, **arguments: Any) -> None:
        params = list(params)
        expected = "another optimizer with module.groups, because Muon makes its own groups"
        require(not isinstance(params[0], dict), "optimizer", "muon", expected)
        super().__init__([{"params": [p for p in params if p.ndim == 2]}], **arguments)
        self.adamw = torch.optim.AdamW([{"params": [p for p in params if p.ndim != 2]}], lr=adamw_lr)
        self.param_groups += self.adamw.param_groups

    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """Take one step with both optimizers; return the closure's loss, if there is a closure."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        groups, self.param_groups = self.param_groups, self.param_groups[:1]
        super().step()
        self.param_groups = groups
        # its groups and state are also this optimizer's, which schedulers and checkpoints know
        self.adamw.param_groups, self.adamw.state = groups[1:], self.state
        self.adamw.step()
        return loss
