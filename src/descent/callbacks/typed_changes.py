"""Makes the optimizer's settings that were typed for a resumed run win over those of its checkpoint."""

from collections.abc import Mapping
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn

from descent.errors import ConfigError


class TypedChanges(Callback):
    """Puts values into the state of the optimizer before it is restored.

    Args:
        changes: by name, such as "lr"; empty in a new run.
    """

    def __init__(self, changes: Mapping[str, Any]) -> None:
        self.changes = changes

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if trainer.state.fn != TrainerFn.FITTING:
            return
        for group in checkpoint["optimizer_states"][0]["param_groups"]:
            for name, value in self.changes.items():
                key, before = f"optimizer.{name}", group.get("initial_lr") if name == "lr" else None
                if name not in group:
                    raise ConfigError(key, value, expected="a setting that the optimizer's state has")
                if before is None:  # else a scheduler sets the rate, from where it began
                    group[name] = value
                elif value != before:
                    raise ConfigError(key, value, expected=f"{before}, from which the scheduler goes on")
