"""In a resumed run, the optimizer's settings that were typed win over those in the checkpoint."""

from collections.abc import Mapping
from typing import Any

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.trainer.states import TrainerFn

from descent.errors import ConfigError


class TypedChanges(Callback):
    """Changes the optimizer's state before it is restored.

    Args:
        changes: new values by name, such as "lr"; empty in a new run.
    """

    def __init__(self, changes: Mapping[str, Any]) -> None:
        self.changes = changes

    def on_load_checkpoint(self, trainer: Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        if trainer.state.fn != TrainerFn.FITTING:
            return
        for group in checkpoint["optimizer_states"][0]["param_groups"]:
            for name, value in self.changes.items():
                key, before = f"optimizer.{name}", group.get("initial_lr") if name == "lr" else None
                if name not in group:
                    raise ConfigError(key, value, expected="a setting that the optimizer's state has")
                if before is None:  # otherwise a scheduler sets the rate, based on the first one
                    group[name] = value
                elif value != before:
                    raise ConfigError(key, value, expected=f"{before}, from which the scheduler goes on")
