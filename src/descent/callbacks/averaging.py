"""An exponential moving average of the weights, which is validated and saved."""

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging


class MovingAverage(EMAWeightAveraging):
    """Lightning's callback, except that the last checkpoint still contains the trained weights.

    Lightning's replaces them with the average before writing that checkpoint, so a run that is then
    extended would continue from the average.
    """

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the weights as they are."""

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Replace the trained weights with the average."""
        super().on_train_end(trainer, pl_module)
