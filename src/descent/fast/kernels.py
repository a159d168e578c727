"""Torch's kernels for Adam, AdamW and SGD, called without what surrounds them in `Optimizer.step`.

Of the time of a small model's `Adam.step`, three quarters are spent around its one kernel. Builds on
private names of torch; a test holds it, bit for bit, against the torch that is installed.
"""

from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim import optimizer as hooks

# settings that the kernels are called for
ADAM = {"amsgrad": False, "maximize": False, "capturable": False, "differentiable": False, "fused": True}
PLAIN: dict[type, dict[str, Any]] = {
    Adam: ADAM,
    AdamW: ADAM,
    SGD: {"maximize": False, "nesterov": False, "differentiable": False},
}
ONE = torch.tensor(1.0)


class Stepper:
    """Steps an optimizer of torch, with the same bits and the same state as its own `step` and `zero_grad`.

    Its own `step` runs wherever anything is unusual: another class, hooks, several parameter groups, settings
    other than `PLAIN`, tensors as rates, parameters of several kinds, and the first step, which makes the
    state. What the optimizer holds is never kept here, so schedulers and checkpoints may change all of it.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer = optimizer
        own = getattr(optimizer.step, "_wrapped_by_lr_sched", False)  # a scheduler's, which notes the call
        kinds = {(p.device, p.dtype) for group in optimizer.param_groups for p in group["params"]}
        known = type(optimizer) in PLAIN and ("step" not in vars(optimizer) or own) and len(kinds) == 1
        self.settings = PLAIN[type(optimizer)] if known else None
        self.update = update_sgd if isinstance(optimizer, SGD) else update_adam
        self.clears = type(optimizer).zero_grad is Optimizer.zero_grad and "zero_grad" not in vars(optimizer)

    def zero_grad(self) -> None:
        """Let go of the gradients."""
        if not self.clears:
            self.optimizer.zero_grad()
            return
        for group in self.optimizer.param_groups:
            for p in group["params"]:
                p.grad = None

    def step(self) -> None:
        """One step with the gradients that are there."""
        if self.settings is None or is_hooked(self.optimizer) or not self._update():
            self.optimizer.step()

    def _update(self) -> bool:
        """Call the kernel; False where that is not possible."""
        groups, state = self.optimizer.param_groups, self.optimizer.state
        group = groups[0]
        assert self.settings is not None
        if len(groups) > 1 or any(group[name] != value for name, value in self.settings.items()):
            return False
        rates = (group["lr"], group["weight_decay"], group.get("eps"), *group.get("betas", ()))
        if any(isinstance(value, Tensor) for value in rates):
            return False
        params = [p for p in group["params"] if p.grad is not None]
        with torch.no_grad():
            done = self.update(group, params, [p.grad for p in params], [state.get(p, {}) for p in params])
        if done:
            self.optimizer._opt_called = True  # type: ignore[attr-defined]  # what a scheduler asks about
        return done


def update_adam(group: dict[str, Any], params: list[Any], grads: list[Any], states: list[Any]) -> bool:
    """Do what `torch.optim.adam._fused_adam` does."""
    if not params or not all(states):
        return False
    first, second, steps = ([state[name] for state in states] for name in ("exp_avg", "exp_avg_sq", "step"))
    if params[0].device.type == "cpu":
        torch._foreach_add_(steps, ONE, alpha=1.0)  # so that no tensor is made of a number first
    else:
        torch._foreach_add_(steps, 1)
    kernel: Any = torch._fused_adamw_ if group["decoupled_weight_decay"] else torch._fused_adam_
    beta1, beta2 = group["betas"]
    settings = {name: group[name] for name in ("lr", "weight_decay", "eps", "amsgrad", "maximize")}
    kernel(params, grads, first, second, [], steps, beta1=beta1, beta2=beta2, **settings)
    return True


def update_sgd(group: dict[str, Any], params: list[Any], grads: list[Any], states: list[Any]) -> bool:
    """Do what `torch.optim.sgd._fused_sgd` does, and on the CPU `_single_tensor_sgd`."""
    settings = {name: group[name] for name in ("lr", "weight_decay", "momentum", "dampening")}
    rate, decay, momentum, dampening = settings.values()
    buffers = [state.get("momentum_buffer") for state in states] if momentum else []
    if not params or any(b is None for b in buffers) or any(grad.is_sparse for grad in grads):
        return False
    if group["fused"]:
        fixed: dict[str, Any] = {"nesterov": False, "maximize": False, "is_first_step": False}
        torch._fused_sgd_(params, grads, buffers, **settings, **fixed)
        return True
    if params[0].device.type != "cpu":  # where torch's own choice may round otherwise
        return False
    if decay:
        grads = list(torch._foreach_add(grads, params, alpha=decay))
    if momentum:
        torch._foreach_mul_(buffers, momentum)
        torch._foreach_add_(buffers, grads, alpha=1 - dampening)
        grads = buffers
    torch._foreach_add_(params, grads, alpha=-rate)
    return True


def is_hooked(optimizer: Optimizer) -> bool:
    """Whether something is to be called around each step."""
    return bool(
        optimizer._optimizer_step_pre_hooks
        or optimizer._optimizer_step_post_hooks
        or hooks._global_optimizer_pre_hooks
        or hooks._global_optimizer_post_hooks
    )
