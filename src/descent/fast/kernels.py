"""Torch's kernels for Adam, AdamW and SGD, called without the rest of `Optimizer.step`.

For a small model, `Adam.step` spends three quarters of its time outside its one kernel. This relies on
private names of torch; a test compares it, bit for bit, with the installed torch.
"""

from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim import optimizer as hooks

# the settings for which the kernels are called
ADAM = {"amsgrad": False, "maximize": False, "capturable": False, "differentiable": False, "fused": True}
PLAIN: dict[type, dict[str, Any]] = {
    Adam: ADAM,
    AdamW: ADAM,
    SGD: {"maximize": False, "nesterov": False, "differentiable": False},
}
ONE = torch.tensor(1.0)


class Stepper:
    """Steps a torch optimizer, with the same bits and the same state as its own `step` and `zero_grad`.

    The optimizer's own `step` runs whenever anything is unusual: another class, hooks, several parameter
    groups, settings other than `PLAIN`, tensor learning rates, mixed parameters, and the first step, which
    creates the state. Nothing of the optimizer is cached here, so schedulers and checkpoints may change it.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer = optimizer
        own = getattr(optimizer.step, "_wrapped_by_lr_sched", False)  # a scheduler's, which records the call
        kinds = {(p.device, p.dtype) for group in optimizer.param_groups for p in group["params"]}
        known = type(optimizer) in PLAIN and ("step" not in vars(optimizer) or own) and len(kinds) == 1
        self.settings = PLAIN[type(optimizer)] if known else None
        self.update = update_sgd if isinstance(optimizer, SGD) else update_adam
        self.clears = type(optimizer).zero_grad is Optimizer.zero_grad and "zero_grad" not in vars(optimizer)

    def zero_grad(self) -> None:
        """Release the gradients."""
        if not self.clears:
            self.optimizer.zero_grad()
            return
        for group in self.optimizer.param_groups:
            for p in group["params"]:
                p.grad = None

    def step(self) -> None:
        """Take one step with the current gradients."""
        if self.settings is None or is_hooked(self.optimizer) or not self._update():
            self.optimizer.step()

    def _update(self) -> bool:
        """Call the kernel, or return False if that is not possible."""
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
            self.optimizer._opt_called = True  # type: ignore[attr-defined]  # a scheduler checks this
        return done


def update_adam(group: dict[str, Any], params: list[Any], grads: list[Any], states: list[Any]) -> bool:
    """Do what `torch.optim.adam._fused_adam` does."""
    if not params or not all(states):
        return False
    first, second, steps = ([state[name] for state in states] for name in ("exp_avg", "exp_avg_sq", "step"))
    if params[0].device.type == "cpu":
        torch._foreach_add_(steps, ONE, alpha=1.0)  # avoids making a tensor from a number first
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
    if params[0].device.type != "cpu":  # torch's own choice may round differently there
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
    """Whether hooks have to be called around each step."""
    return bool(
        optimizer._optimizer_step_pre_hooks
        or optimizer._optimizer_step_post_hooks
        or hooks._global_optimizer_pre_hooks
        or hooks._global_optimizer_post_hooks
    )
