"""Shows in TensorBoard what a model has learned and where it errs: `callbacks=insight`."""

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torchmetrics.functional.classification import multiclass_confusion_matrix
from torchmetrics.utilities.plot import plot_confusion_matrix

from descent.callbacks.recorder import find_writers
from descent.errors import require

WORST = 9  # predictions to show
MANY = 20  # classes: more have no counts in their cells


class Insight(Callback):
    """Shows histograms of weights and gradients, the worst predictions, and one picture of all predictions.

    The picture is a confusion matrix of classes, or predicted against true values.

    Args:
        every: epochs between two reports, which also cover the first epoch.
    """

    def __init__(self, every: int) -> None:
        require(every >= 1, "every", every, "a whole number of at least 1")
        self.every = every
        self.seen: list[tuple[Tensor, Tensor, Tensor]] = []  # inputs, predictions and targets of each batch

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: Any,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if self._is_due(trainer) and hasattr(pl_module, "task"):
            inputs, targets = batch
            predicted, true = pl_module.task.for_metrics(pl_module.model(inputs), targets)
            self.seen.append((inputs.cpu(), predicted.cpu(), true.cpu()))

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        seen, self.seen = self.seen, []
        writers = find_writers(trainer)
        if not seen or not writers or trainer.sanity_checking:
            return
        inputs, predicted, true = (torch.cat(parts) for parts in zip(*seen, strict=True))
        names = getattr(pl_module.task, "names", [])
        if true.is_floating_point():
            title, picture = "predicted_and_true", draw_values(predicted, true, names)
            badness = (predicted - true).abs().flatten(1).sum(1)
        elif true.dim() == 1:
            counts = multiclass_confusion_matrix(predicted, true, len(names))
            title, picture = "confusion", draw_confusion(counts, names)
            badness = -predicted.gather(1, true[:, None]).squeeze(1)
        else:  # one sample has many answers, such as its pixels
            return
        worst = badness.argsort(descending=True)[:WORST]
        rows = [
            f"| {label(predicted[row], true[row], names)} | {list_numbers(inputs[row], 8)} |" for row in worst
        ]
        table = "\n".join(["| prediction | inputs |", "|---|---|", *rows])
        for writer in writers:
            writer.add_figure(title, picture, trainer.global_step)
            writer.add_text("worst", table, trainer.global_step)
            if inputs.dim() == 4:
                images = inputs[worst] - inputs.min()
                images = images if images.shape[1] == 3 else images.mean(1, keepdim=True)
                writer.add_images("worst", images / images.max().clamp(min=1e-9), trainer.global_step)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if not trainer.is_last_batch or not self._is_due(trainer):
            return
        for writer in find_writers(trainer):  # now, because validation releases the gradients
            for name, parameter in pl_module.named_parameters():
                writer.add_histogram(f"weights/{name}", parameter, trainer.global_step)
                if parameter.grad is not None and not parameter.grad.is_sparse:
                    writer.add_histogram(f"gradients/{name}", parameter.grad, trainer.global_step)

    def _is_due(self, trainer: Trainer) -> bool:
        return trainer.current_epoch == 0 or (trainer.current_epoch + 1) % self.every == 0


def label(predicted: Tensor, true: Tensor, names: list[str]) -> str:
    """Return a prediction and its target in words."""
    if true.is_floating_point():
        return f"{list_numbers(predicted, 4)}, is {list_numbers(true, 4)}"
    guess = int(predicted.argmax())
    return f"{names[guess]} ({predicted[guess]:.2f}), is {names[int(true)]}"


def list_numbers(values: Tensor, most: int) -> str:
    """Return the first numbers of a tensor as text."""
    return ", ".join(f"{value:.4g}" for value in values.flatten()[:most].tolist())


def draw_confusion(counts: Tensor, names: list[str]) -> Any:
    """Draw how often each class was predicted as each class."""
    from matplotlib.figure import Figure

    side = min(16.0, max(4.0, 0.6 * len(names)))
    figure = Figure(figsize=(side, side), layout="constrained")
    plot_confusion_matrix(counts, figure.subplots(), len(names) <= MANY, list(names))
    return figure


def draw_values(predicted: Tensor, true: Tensor, names: list[str]) -> Any:
    """Draw predicted against true values, each output in a colour of its own."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 5), layout="constrained")
    axes = figure.subplots()
    axes.plot(true, predicted, ".", markersize=3, label=list(names))
    axes.axline((float(true.min()),) * 2, slope=1, color="gray")
    axes.set(xlabel="true", ylabel="predicted")
    axes.legend()
    return figure
