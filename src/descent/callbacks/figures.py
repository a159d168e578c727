"""What an epoch logged, for the callbacks that print it or write it."""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

NAMES = {"loss": "Loss", "acc": "Acc", "mae": "MAE", "r2": "R²"}  # as the tutorial prints them


class Figures(Callback):
    """Calls `on_figures` once an epoch, when all that the epoch logged is there.

    A module's own `on_train_epoch_end` comes after every callback's, so the first hook that sees its
    figures is the next epoch's start, or the end of training.
    """

    def __init__(self) -> None:
        self.trained = self.validated = False

    def on_figures(
        self, trainer: Trainer, pl_module: LightningModule, epoch: int, figures: dict[str, float]
    ) -> None:
        """To be overridden.

        Args:
            trainer: as in every hook.
            pl_module: as in every hook.
            epoch: the epoch that has ended, counted from 1.
            figures: by name, such as "train/loss"; those of validation only if it ran in this epoch.
        """

    def state_dict(self) -> dict[str, Any]:
        return {"trained": self.trained, "validated": self.validated}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.trained, self.validated = state_dict["trained"], state_dict["validated"]

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._pass_on(trainer, pl_module)
        self.trained, self.validated = True, False

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.validated = True

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._pass_on(trainer, pl_module)
        self.trained = False

    def _pass_on(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not (self.trained and trainer.is_global_zero):
            return
        stages = ("train/", "val/") if self.validated else ("train/",)
        names = [name for stage in stages for name in trainer.callback_metrics if name.startswith(stage)]
        # float32 has seven digits; the rest would only look precise
        figures = {name: float(f"{trainer.callback_metrics[name]:.7g}") for name in (*names, "lr")}
        self.on_figures(trainer, pl_module, trainer.current_epoch, figures)
