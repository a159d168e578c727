"""Shows in TensorBoard what a model has learned and where it errs: `callbacks=insight`."""

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from descent.callbacks.recorder import find_writers
from descent.errors import require

WORST = 9  # predictions to show


class Insight(Callback):
    """Shows histograms of weights and gradients, the worst predictions, and one picture of all predictions.

    The picture is a confusion matrix of classes, or predicted against true values.

    Args:
        every: epochs between two reports, which also cover the first epoch.
    """

    state_key = "insight"

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
            self.seen.append(tuple(part.detach().cpu() for part in (inputs, predicted, true)))  # type: ignore[arg-type]

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        seen, self.seen = self.seen, []
        writers = find_writers(trainer)
        if not seen or not writers or trainer.sanity_checking:
            return
        inputs, predicted, true = (torch.cat(parts) for parts in zip(*seen, strict=True))
        names = getattr(getattr(pl_module, "task", None), "names", [])
        classes = not true.is_floating_point() and true.dim() == 1
        if classes:
            badness: Tensor | None = -predicted.gather(1, true[:, None]).squeeze(1)
        else:
            badness = (predicted - true).abs().flatten(1).sum(1) if true.is_floating_point() else None
        for writer in writers:
            step = trainer.global_step
            if classes:
                writer.add_figure("confusion", draw_confusion(predicted.argmax(1), true, names), step)
            elif badness is not None:
                writer.add_figure("predicted_and_true", draw_values(predicted, true, names), step)
            if badness is not None:
                worst = badness.argsort(descending=True)[:WORST]
                labels = [label(predicted[row], true[row], names, classes) for row in worst.tolist()]
                if inputs.dim() == 4:
                    writer.add_figure("worst", draw_images(inputs[worst], labels), step)
                rows = [
                    f"| {text} | {describe(inputs[row])} |"
                    for text, row in zip(labels, worst.tolist(), strict=True)
                ]
                writer.add_text("worst", "\n".join(["| prediction | inputs |", "|---|---|", *rows]), step)

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


def label(predicted: Tensor, true: Tensor, names: list[str], classes: bool) -> str:
    """Return a prediction and its target in words."""
    if classes:
        guess = int(predicted.argmax())
        return f"{names[guess]} ({predicted[guess]:.2f}), is {names[int(true)]}"
    numbers = (
        ", ".join(f"{value:.4g}" for value in part.flatten()[:4].tolist()) for part in (predicted, true)
    )
    return "{}, is {}".format(*numbers)


def describe(inputs: Tensor) -> str:
    """Return the first numbers of a sample, as the model sees them."""
    return ", ".join(f"{value:.3g}" for value in inputs.flatten()[:8].tolist())


def draw_confusion(predicted: Tensor, true: Tensor, names: list[str]) -> Any:
    """Draw how often each class was predicted as each class."""
    from matplotlib.figure import Figure

    counts = torch.bincount(true * len(names) + predicted, minlength=len(names) ** 2).reshape(len(names), -1)
    figure = Figure(figsize=(5, 5), layout="constrained")
    axes = figure.subplots()
    axes.imshow(counts, cmap="Blues")
    for row, column in counts.nonzero().tolist() if len(names) <= 20 else ():
        axes.text(column, row, str(int(counts[row, column])), ha="center", va="center")
    axes.set(xlabel="predicted", ylabel="true")
    axes.set_xticks(range(len(names)), names, rotation=90)
    axes.set_yticks(range(len(names)), names)
    return figure


def draw_values(predicted: Tensor, true: Tensor, names: list[str]) -> Any:
    """Draw predicted against true values, one chart for each of the first outputs."""
    from matplotlib.figure import Figure

    count = min(4, true.shape[1])
    figure = Figure(figsize=(4 * count, 4), layout="constrained")
    for number, axes in enumerate(figure.subplots(1, count, squeeze=False)[0]):
        axes.plot(true[:, number], predicted[:, number], ".", markersize=3)
        axes.axline((float(true[0, number]),) * 2, slope=1, color="gray")
        axes.set(xlabel="true", ylabel="predicted", title=names[number] if number < len(names) else "")
    return figure


def draw_images(inputs: Tensor, labels: list[str]) -> Any:
    """Draw images `(n, channels, height, width)`, each with its label."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 7), layout="constrained")
    for axes, image, text in zip(figure.subplots(3, 3).flat, inputs, labels, strict=False):
        shown = (image - image.min()) / (image.max() - image.min()).clamp(min=1e-9)
        axes.imshow(shown.mean(0) if len(shown) != 3 else shown.permute(1, 2, 0), cmap="gray")
        axes.set_title(text, fontsize=8)
        axes.axis("off")
    return figure
