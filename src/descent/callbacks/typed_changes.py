"""What was typed for a resumed run: the optimizer's settings win over those in the checkpoint."""

from collections.abc import Collection, Mapping
from typing import Any

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.trainer.states import TrainerFn

from descent.errors import ConfigError

FIRST = ("history_size", "initial_accumulator_value")  # what an optimizer's state is begun with
NEEDED = {"amsgrad": "max_exp_avg_sq", "centered": "grad_avg", "momentum": "momentum_buffer"}


class TypedChanges(Callback):
    """Changes the optimizer's state before it is restored, and refuses words that would change nothing.

    Args:
        changes: new values by key, such as "optimizer.lr"; empty in a new run.
    """

    def __init__(self, changes: Mapping[str, Any]) -> None:
        self.changes = changes
        self.trained = False

    def on_load_checkpoint(self, trainer: Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        if trainer.state.fn != TrainerFn.FITTING:
            return
        state = checkpoint["optimizer_states"][0]
        for key, value in self.changes.items():
            group_name, _, name = key.partition(".")
            for group in state["param_groups"] if group_name == "optimizer" else []:
                if fault := find_obstacle(name, value, group, state["state"].values()):
                    raise ConfigError(key, value, expected=fault)
                if name != "lr" or "initial_lr" not in group:  # else a scheduler sets it
                    group[name] = value

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        self.trained = True

    def on_fit_end(self, trainer: Trainer, pl_module: Any) -> None:
        if self.changes and not self.trained:
            key, value = next(iter(self.changes.items()))
            raise ConfigError(key, value, expected="a run that has not ended, for this to change it")


def find_obstacle(name: str, value: Any, group: Mapping[str, Any], states: Collection[Any]) -> str:
    """Say what is expected of a setting whose new value would fail or change nothing; "" if it is applied.

    Args:
        name: of the setting.
        value: the new one.
        group: the settings that the optimizer had.
        states: what it keeps of each weight.
    """
    if name not in group:
        return "a setting that the optimizer's state has"
    begun = name in FIRST or (name == "lr" and "step_sizes" in group)  # of Rprop
    missing = value and name in NEEDED and any(NEEDED[name] not in state for state in states)
    if begun or missing:
        return f"{group[name]}, with which the optimizer's state was begun"
    if name in ("betas", "momentum") and "base_momentum" in group:
        return "no word for it, for the scheduler sets it at each step"
    rate = group.get("initial_lr", value)
    if name == "lr" and value != rate:
        return f"{rate}, from which the scheduler goes on"
    return ""
