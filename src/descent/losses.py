"""Criteria: `torch.nn.Module`s of `(input, target)`, and how a loss on values meets class targets."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from descent.errors import ConfigError, require


class MeanAbsoluteError(nn.Module):
    """`(1/len(input)) * sum(|input - target|)`: summed over the outputs, averaged over the batch.

    `torch.nn.L1Loss` divides by the number of outputs as well; this does not. With one output they agree.
    The gradient on an element of `input` is `sign(input - target) / len(input)`: as large for a small
    error as for a large one, which makes the loss robust to outliers and to wrong labels (Ghosh, Kumar &
    Sastry, "Robust Loss Functions under Label Noise for Deep Neural Networks", AAAI 2017). On class
    probabilities it starts slowly for the same reason: while the true class has a small probability the
    softmax passes almost no gradient back, and a class can stay unlearned for many epochs. Give it more
    steps (a smaller batch, more epochs) than cross entropy.
    """

    def __init__(self) -> None:
        super().__init__()

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Scalar loss.

        Args:
            input: predictions, any floating dtype, shape `(batch, ...)`.
            target: the values to predict, the same shape.

        Raises:
            ValueError: the shapes differ, where subtraction would have broadcast one to the other.
        """
        if input.shape != target.shape:
            raise ValueError(f"input has shape {tuple(input.shape)} but target has {tuple(target.shape)}")
        return (1 / len(input)) * torch.sum(torch.abs(input - target))


class OnProbabilities(nn.Module):
    """A loss on values, applied to class targets: `criterion(softmax(logits), one_hot(classes))`.

    With `MeanAbsoluteError` this is the loss of Ghosh, Kumar & Sastry (2017), with `torch.nn.MSELoss`
    the Brier score (1950). Both sum over the classes, so a criterion whose `reduction="mean"` divides by
    the number of classes too is multiplied by it.
    """

    def __init__(self, criterion: nn.Module) -> None:
        super().__init__()
        self.criterion = criterion
        self.sum_over_classes = getattr(criterion, "reduction", None) == "mean"

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Scalar loss of logits `(batch, classes)` and class indices `(batch,)`, int64."""
        loss = self.criterion(self.probabilities(input), F.one_hot(target, input.shape[1]).to(input.dtype))
        return loss * input.shape[1] if self.sum_over_classes else loss

    def probabilities(self, logits: Tensor) -> Tensor:
        return logits.softmax(1)


class OnLogits(OnProbabilities):
    """A loss that applies its own sigmoid, such as `BCEWithLogitsLoss`: one yes-or-no question a class."""

    def probabilities(self, logits: Tensor) -> Tensor:
        return logits


class OnLogProbabilities(nn.Module):
    """`criterion(log_softmax(logits), classes)`, for `torch.nn.NLLLoss`."""

    def __init__(self, criterion: nn.Module) -> None:
        super().__init__()
        self.criterion = criterion

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Scalar loss of logits `(batch, classes)` and class indices `(batch,)`, int64."""
        return self.criterion(input.log_softmax(1), target)


CLASS_LOSSES = (nn.CrossEntropyLoss, nn.MultiMarginLoss, nn.NLLLoss, nn.BCEWithLogitsLoss)


def fit_to_task(criterion: nn.Module, task: str) -> nn.Module:
    """Make a criterion accept what the model gives for this task.

    Args:
        criterion: any loss module of `(input, target)`.
        task: "classification" (logits and class indices) or "regression" (values and values).

    Raises:
        ConfigError: a loss on classes meets real-valued targets, or the loss is no single number.
    """
    reduction = getattr(criterion, "reduction", "mean")
    require(reduction in ("mean", "sum"), "loss.reduction", reduction, "mean or sum")
    if task == "regression":
        if isinstance(criterion, CLASS_LOSSES):
            raise ConfigError(
                f"loss={type(criterion).__name__}: expected a loss on values (mae, mse, huber, smooth_l1,"
                " l1), for the targets of this data are real numbers, not classes"
            )
        return criterion
    if isinstance(criterion, nn.NLLLoss):
        return OnLogProbabilities(criterion)
    if isinstance(criterion, nn.BCEWithLogitsLoss):
        return OnLogits(criterion)
    if isinstance(criterion, CLASS_LOSSES):
        return criterion
    return OnProbabilities(criterion)
