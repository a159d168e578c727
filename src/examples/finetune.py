"""A network that has learned before: its last layer alone at first, then all of it, at two rates."""

from typing import Any

from lightning.pytorch import Callback, Trainer


class Unfreeze(Callback):
    """Keeps all but the network's head as it is for the first epochs.

    What is frozen is a function of the epoch, so a run that resumes needs no state of this callback; and the
    optimizer has had all parameters from the start, so it needs no new ones.

    Args:
        head: name of the last layer.
        epochs: that it learns alone.
    """

    def __init__(self, head: str, epochs: int) -> None:
        self.head, self.epochs = head, epochs

    def on_train_epoch_start(self, trainer: Trainer, pl_module: Any) -> None:
        frozen = trainer.current_epoch < self.epochs
        for name, layer in pl_module.model.named_children():
            if name != self.head:
                layer.requires_grad_(not frozen)
                layer.train(not frozen)  # frozen, batch normalisation keeps its statistics
