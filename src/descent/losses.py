"""Criteria, each a `torch.nn.Module` of `(input, target)`, and how one that compares values meets classes."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from descent.errors import ConfigError, blame, first_line, require

# What torch's losses take. A criterion of your own can say so with an attribute `takes`; without it, it gets
# what most of torch's losses get: logits and class indices, or values and values.
TAKES: dict[str, tuple[type[nn.Module], ...]] = {
    "classes": (nn.CrossEntropyLoss, nn.MultiMarginLoss),
    "values": (nn.L1Loss, nn.MSELoss, nn.HuberLoss, nn.SmoothL1Loss, nn.PoissonNLLLoss, nn.BCELoss),
    "log_probabilities": (nn.NLLLoss,),
    "one_hot": (nn.BCEWithLogitsLoss, nn.MultiLabelSoftMarginLoss),
}


class MeanAbsoluteError(nn.Module):
    """`(1/len(input)) * sum(|input - target|)`: summed over the outputs, averaged over the batch.

    `torch.nn.L1Loss` also divides by the number of outputs; this does not. With one output they agree.
    The gradient with respect to an element of `input` is `sign(input - target) / len(input)`: as large for
    a small error as for a large one, which makes the loss robust to outliers and to wrong labels (Ghosh,
    Kumar & Sastry, "Robust Loss Functions under Label Noise for Deep Neural Networks", AAAI 2017). On class
    probabilities it starts slowly: while the true class has a small probability, the softmax passes almost
    no gradient back, and a class can stay unlearned for many epochs. Give it more steps (a smaller batch,
    more epochs) than cross entropy.
    """

    takes = "values"

    def __init__(self) -> None:
        super().__init__()

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Return the loss, a scalar.

        Args:
            input: predictions, any floating dtype, shape `(batch, ...)`.
            target: the values to predict, the same shape.

        Raises:
            ValueError: the shapes differ, so that subtraction would broadcast one to the other.
        """
        if input.shape != target.shape:
            raise ValueError(f"input has shape {tuple(input.shape)} but target has {tuple(target.shape)}")
        return (1 / len(input)) * torch.sum(torch.abs(input - target))


class OnClasses(nn.Module):
    """Applies to logits and class indices a criterion that takes something else.

    - "values" compares `softmax(logits)` with the one-hot class. With `MeanAbsoluteError` this is the loss of
      Ghosh, Kumar & Sastry (2017), with `torch.nn.MSELoss` the Brier score (1950).
    - "one_hot" compares the logits with the one-hot class: one yes-or-no question for each class.
    - "log_probabilities" gets `log_softmax(logits)` and the class indices.

    The first two are sums over the classes, so the loss is multiplied by the number of classes if the
    criterion's `reduction="mean"` has divided by it.

    Args:
        criterion: of `(input, target)`.
        takes: one of these three words.
    """

    def __init__(self, criterion: nn.Module, takes: str) -> None:
        super().__init__()
        self.criterion, self.takes = criterion, takes
        self.divides_by_classes = getattr(criterion, "reduction", None) == "mean" and not isinstance(
            criterion, nn.MultiLabelSoftMarginLoss
        )

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Return the loss, a scalar, of logits `(batch, classes)` and class indices, int64 `(batch,)`."""
        if self.takes == "log_probabilities":
            return self.criterion(input.log_softmax(1), target)
        outputs = input.softmax(1) if self.takes == "values" else input
        loss = self.criterion(outputs, F.one_hot(target, input.shape[1]).to(input.dtype))
        return loss * input.shape[1] if self.divides_by_classes else loss


def find_takes(criterion: nn.Module) -> str | None:
    """Return what a criterion says that it takes, or what is known of torch's losses; None if neither."""
    known = (word for word, kinds in TAKES.items() if isinstance(criterion, kinds))
    return getattr(criterion, "takes", None) or next(known, None)


def adapt(criterion: nn.Module, task: str, outputs: int) -> nn.Module:
    """Make a criterion accept what the model returns, and try it on a small batch.

    Args:
        criterion: any loss module of `(input, target)`.
        task: "classification" (logits and class indices) or "regression" (values and values).
        outputs: number of the model's outputs.

    Raises:
        ConfigError: it takes something else, or does not return one number from which `backward` can start.
    """
    takes = find_takes(criterion)
    if takes not in (None, *TAKES):
        raise ConfigError("loss.takes", takes, expected=f"one of {', '.join(TAKES)}", choices=TAKES)
    if task == "regression" and takes not in (None, "values"):
        expected = (
            f"a loss on values (mae, mse, huber, smooth_l1, l1), not {type(criterion).__name__}, for the"
            " targets of this data are real numbers, not classes (data.task of a table says which)"
        )
        raise ConfigError("loss", expected=expected)
    if task == "classification" and takes in ("values", "one_hot", "log_probabilities"):
        criterion = OnClasses(criterion, str(takes))
    try_out(criterion, task, outputs)
    return criterion


def try_out(criterion: nn.Module, task: str, outputs: int) -> None:
    """Compute the loss of one small batch; see `adapt`."""
    size = 4 if outputs == 3 else 3  # not the number of outputs, so that no shape fits by accident
    output = torch.linspace(-1, 1, size * outputs).reshape(size, outputs).requires_grad_()
    if task == "classification":
        target, given = torch.arange(size) % outputs, "logits and class indices"
    else:
        target, given = torch.zeros(size, outputs), "values and values"
    try:
        with torch.random.fork_rng():
            loss = criterion(output, target)
    except (TypeError, ValueError, RuntimeError, IndexError) as error:
        expected = (
            f"a criterion that takes {given}, {tuple(output.shape)} and {tuple(target.shape)}"
            f" ({first_line(error)})"
        )
        if task == "classification" and find_takes(criterion) is None:
            expected += '; one that compares values says takes = "values"'
        raise ConfigError("loss", expected=expected) from error
    if not isinstance(loss, Tensor) or loss.dim() > 0:
        shape = tuple(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
        expected = f"one number for a batch, such as by the reduction mean or sum, not {shape}"
        raise ConfigError("loss", expected=expected)
    if not loss.requires_grad:
        raise ConfigError("loss", expected="a loss that depends on the model's outputs, for backward")


def by_task(
    task: str | None, classes: Callable[..., nn.Module], values: nn.Module, **arguments: Any
) -> nn.Module:
    """Return the criterion for the task: for classes `classes(**arguments)`, for values `values`."""
    return classes(**arguments) if task == "classification" else values


def size_loss(node: Mapping[str, Any], task: str, class_counts: Sequence[int]) -> dict[str, Any]:
    """Return the arguments of a loss that depend on the data: the task, and the classes' weights as tensors.

    "balanced" makes all classes count alike: if n of N training samples belong to a class, one of K, its
    weight is `N / (K * n)` (King & Zeng, 2001), and the `pos_weight` of its yes-or-no question `(N - n) / n`.

    Args:
        node: the loss's part of the config, whose `weight` and `pos_weight` may be "balanced" or numbers.
        task: of the data.
        class_counts: number of training samples of each class.
    """
    counts = torch.tensor(class_counts, dtype=torch.float32)
    total = counts.sum()
    balanced = {"weight": total / (len(counts) * counts), "pos_weight": (total - counts) / counts}
    arguments: dict[str, Any] = {"task": task} if "task" in node else {}
    for name, weights in balanced.items():
        value = node.get(name)
        if value == "balanced":
            expected = "a training sample of each class, for that is what the weights are counted by"
            require(len(counts) > 0 and all(class_counts), f"loss.{name}", value, expected)
            arguments[name] = weights
        elif value is not None:
            with blame(f"loss.{name}"):
                arguments[name] = torch.tensor(list(value), dtype=torch.float32)
    return arguments
