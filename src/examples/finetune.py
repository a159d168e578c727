"""Fine-tunes a pretrained network: its last layer alone at first, then all of it, at two rates."""

from typing import Any

from lightning.pytorch import Callback, Trainer


class Unfreeze(Callback):
    """Freezes all but the network's head for the first epochs.

    What is frozen depends only on the epoch, so a resumed run needs no state from this callback; and the
    optimizer has all parameters from the start, so none are added later.

    Args:
        head: name of the last layer.
        epochs: how many epochs it learns alone.
    """

    def __init__(self, head: str, epochs: int) -> None:
        self.head, self.epochs = head, epochs

    def on_train_epoch_start(self, trainer: Trainer, pl_module: Any) -> None:
        frozen = trainer.current_epoch < self.epochs
        for name, layer in pl_module.model.named_children():
            if name != self.head:
                layer.requires_grad_(not frozen)
                layer.train(not frozen)  # frozen, batch normalisation keeps its statistics
