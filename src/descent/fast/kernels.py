"""Torch's kernels for Adam, AdamW and SGD, called without the rest of `Optimizer.step`.

For a small model, `Adam.step` spends three quarters of its time outside its one kernel. This relies on
private names of torch; a test compares it, bit for bit, with the installed torch.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim import optimizer as hooks


class Stepper:
    """Steps a torch optimizer, with the same bits and the same state as its own `step` and `zero_grad`.

    The optimizer's own `step` runs whenever anything is unusual: another class, hooks, several parameter
    groups, other settings than those that the kernels take, and the first step, which creates the state.
    Nothing of the optimizer is cached here, so schedulers and checkpoints may change it.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer = optimizer
        self.update = {Adam: update_adam, AdamW: update_adam, SGD: update_sgd}.get(type(optimizer))
        own = getattr(optimizer.step, "_wrapped_by_lr_sched", False)  # a scheduler's, which records the call
        kinds = {(p.device, p.dtype) for group in optimizer.param_groups for p in group["params"]}
        if len(kinds) > 1 or ("step" in vars(optimizer) and not own):
            self.update = None

    def zero_grad(self) -> None:
        """Release the gradients."""
        for group in self.optimizer.param_groups:
            for p in group["params"]:
                p.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """Take one step with the current gradients."""
        optimizer, groups = self.optimizer, self.optimizer.param_groups
        hooked = (
            optimizer._optimizer_step_pre_hooks
            or optimizer._optimizer_step_post_hooks
            or hooks._global_optimizer_pre_hooks
            or hooks._global_optimizer_post_hooks
        )
        if hooked or self.update is None or len(groups) > 1 or not self.update(groups[0], optimizer.state):
            with torch.enable_grad():
                optimizer.step()
        else:
            optimizer._opt_called = True  # type: ignore[attr-defined]  # a scheduler checks this


def update_adam(group: Mapping[str, Any], state: Mapping[Any, Any]) -> bool:
    """Do what `torch.optim.adam._fused_adam` does, or return False where torch would do something else."""
    other = any(group[name] for name in ("amsgrad", "maximize", "capturable", "differentiable"))
    params = [p for p in group["params"] if p.grad is not None]
    states = [state.get(p) for p in params]
    if other or not group["fused"] or isinstance(group["lr"], Tensor) or not params or not all(states):
        return False
    first, second, steps = ([s[name] for s in states] for name in ("exp_avg", "exp_avg_sq", "step"))  # type: ignore[index]
    torch._foreach_add_(steps, 1)
    kernel: Any = torch._fused_adamw_ if group["decoupled_weight_decay"] else torch._fused_adam_
    beta1, beta2 = group["betas"]
    settings = {name: group[name] for name in ("lr", "weight_decay", "eps", "amsgrad", "maximize")}
    kernel(params, [p.grad for p in params], first, second, [], steps, beta1=beta1, beta2=beta2, **settings)
    return True


def update_sgd(group: Mapping[str, Any], state: Mapping[Any, Any]) -> bool:
    """Do what `torch.optim.sgd._single_tensor_sgd` does, or return False where torch would do otherwise."""
    other = any(group[name] for name in ("maximize", "nesterov", "differentiable", "fused"))
    params: list[Any] = [p for p in group["params"] if p.grad is not None]
    if other or isinstance(group["lr"], Tensor) or not params or params[0].device.type != "cpu":
        return False  # torch's choice for another device may round differently
    buffers = [state.get(p, {}).get("momentum_buffer") for p in params] if group["momentum"] else []
    grads = [p.grad for p in params]
    if any(buffer is None for buffer in buffers) or any(grad.is_sparse for grad in grads):
        return False
    if group["weight_decay"]:
        grads = list(torch._foreach_add(grads, params, alpha=group["weight_decay"]))
    if group["momentum"]:
        torch._foreach_mul_(buffers, group["momentum"])
        torch._foreach_add_(buffers, grads, alpha=1 - group["dampening"])
        grads = buffers
    torch._foreach_add_(params, grads, alpha=-group["lr"])
    return True
