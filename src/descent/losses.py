"""Criteria, each a `torch.nn.Module` of `(input, target)`, and how much each batch's loss counts."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from descent.errors import require, require_one_of
from descent.task import Task

# What torch's losses compare. Your own criterion can declare it with an attribute `takes`; without it, it
# gets what most of torch's losses get: logits and classes, or values and values.
TAKES: dict[str, tuple[type[nn.Module], ...]] = {
    "classes": (nn.CrossEntropyLoss, nn.MultiMarginLoss),
    "values": (nn.L1Loss, nn.MSELoss, nn.HuberLoss, nn.SmoothL1Loss, nn.PoissonNLLLoss, nn.BCELoss),
    "log_probabilities": (nn.NLLLoss,),
    "one_hot": (nn.BCEWithLogitsLoss, nn.MultiLabelSoftMarginLoss),
}


class MeanAbsoluteError(nn.Module):
    """`(1/len(input)) * sum(|input - target|)`: summed over the outputs, averaged over the batch.

    `torch.nn.L1Loss` also divides by the number of outputs; this does not. With one output, they agree.
    The gradient with respect to an element of `input` is `sign(input - target) / len(input)`: as large for
    a small error as for a large one, so that outliers and wrong labels matter little (Ghosh, Kumar & Sastry,
    "Robust Loss Functions under Label Noise for Deep Neural Networks", AAAI 2017). On class probabilities,
    it starts slowly, because the softmax passes back almost no gradient while the true class is unlikely:
    give it more steps than cross entropy.
    """

    takes = "values"

    def __init__(self) -> None:
        super().__init__()

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Return the loss, a scalar, of predictions and the values to predict, both `(batch, ...)`.

        Raises:
            ValueError: the shapes differ, so that subtraction would broadcast one to the other.
        """
        if input.shape != target.shape:
            raise ValueError(f"input has shape {tuple(input.shape)} but target has {tuple(target.shape)}")
        return (1 / len(input)) * torch.sum(torch.abs(input - target))


def find_takes(criterion: nn.Module) -> str | None:
    """Return what a criterion declares that it compares, or what is known for torch's losses, or None."""
    known = (word for word, kinds in TAKES.items() if isinstance(criterion, kinds))
    takes = getattr(criterion, "takes", None) or next(known, None)
    if takes is not None:
        require_one_of(TAKES, "loss.takes", takes)
    return takes


def count_terms(criterion: nn.Module, task: Task) -> int:
    """Return what turns a criterion's mean over classes into a sum: `MSELoss` becomes the Brier score."""
    means = getattr(criterion, "reduction", "") == "mean" and find_takes(criterion) in ("values", "one_hot")
    own = isinstance(criterion, nn.MultiLabelSoftMarginLoss)  # means a mean
    return task.sizes().get("num_classes", 1) if means and not own else 1


def weigh_targets(criterion: nn.Module, targets: Any) -> Tensor | None:
    """Return each target's weight in a batch's mean, in the shape of the targets; None: all equal.

    Cross entropy divides by the sum of class weights over the targets that count. An epoch's mean therefore
    weights batches by these sums; otherwise the loss of the same samples would depend on the batch size.
    """
    if not isinstance(criterion, nn.CrossEntropyLoss | nn.NLLLoss) or targets.is_floating_point():
        return None
    counts = targets != criterion.ignore_index
    if criterion.weight is None:
        return counts.float()
    return criterion.weight[targets * counts].float() * counts


def weigh_classes(node: Mapping[str, Any], data: Any) -> dict[str, Tensor]:
    """Return a loss's arguments that are the word "balanced", as tensors.

    Balanced weights make all classes count equally: if n of N training samples are of one of K classes, its
    weight is `N / (K * n)` (King & Zeng, 2001), and the `pos_weight` of its yes-or-no question `(N - n) / n`.
    """
    n = torch.tensor(getattr(data, "class_counts", []), dtype=torch.float32)
    balanced = {"weight": n.sum() / (len(n) * n), "pos_weight": (n.sum() - n) / n}
    chosen = {name: weights for name, weights in balanced.items() if node.get(name) == "balanced"}
    for name in chosen:
        expected = "a training sample of each class, because the class weights come from their counts"
        require(len(n) > 0 and bool(n.all()), f"loss.{name}", "balanced", expected)
    return chosen
