"""What an epoch logged, for the callbacks that print or write it."""

from typing import Any

from lightning.pytorch import Callback, Trainer

TITLES = {"loss": "Loss", "acc": "Acc", "mae": "MAE", "r2": "R²"}  # as the tutorial prints them


class Figures(Callback):
    """Calls `on_figures` once an epoch, as soon as everything that the epoch logs is there.

    The module's own `on_train_epoch_end` runs after every callback's, so the first hook that sees its
    figures is the next epoch's start, or the end of training.
    """

    def __init__(self) -> None:
        self.trained = self.validated = False

    def on_figures(self, trainer: Trainer, epoch: int, figures: dict[str, float]) -> None:
        """Override this to use the figures.

        Args:
            trainer: of the run.
            epoch: the epoch that has ended, counted from 1.
            figures: by name, such as "train/loss"; those of validation only if it ran in this epoch.
        """

    def state_dict(self) -> dict[str, Any]:
        return {"trained": self.trained, "validated": self.validated}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.trained, self.validated = state_dict["trained"], state_dict["validated"]

    def on_train_epoch_start(self, trainer: Trainer, pl_module: Any) -> None:
        self._pass_on(trainer)
        self.trained, self.validated = True, False

    def on_validation_end(self, trainer: Trainer, pl_module: Any) -> None:
        self.validated = True

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        self._pass_on(trainer)
        self.trained = False

    def _pass_on(self, trainer: Trainer) -> None:
        if not (self.trained and trainer.is_global_zero):
            return
        stages = ("train/", "val/") if self.validated else ("train/",)
        logged = trainer.callback_metrics
        names = [name for stage in stages for name in logged if name.startswith(stage)]
        # float32 has seven digits; the rest would only look precise
        figures = {name: float(f"{logged[name].item():.7g}") for name in (*names, "lr")}
        self.on_figures(trainer, trainer.current_epoch, figures)


def title_of(figure: str) -> str:
    """Return a figure's name as the tutorial prints it: "Val Acc" for "val/acc"."""
    stage, _, name = figure.partition("/")
    return f"{stage.capitalize()} {TITLES.get(name, name)}"
