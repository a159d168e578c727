"""An exponential moving average of the weights, which is what is validated and kept."""

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging


class MovingAverage(EMAWeightAveraging):
    """Lightning's, but that the last checkpoint still contains the weights that were trained.

    Lightning's puts the average in their place before that is written, and a run that is then made longer
    would go on from the average.
    """

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the weights as they are."""

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put the average in the place of the trained weights."""
        super().on_train_end(trainer, pl_module)
