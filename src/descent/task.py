"""What targets mean, in one place: for the loss, the metrics, and people who read a prediction."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from descent.data.scaling import Precise
from descent.errors import ConfigError

IGNORED = -100  # the class of a target that does not count, as in `torch.nn.CrossEntropyLoss`


class Task(nn.Module):
    """Any task: outputs and targets reach the loss and the metrics unchanged.

    Your own task overrides what it needs; its `kind` selects the default in conf/loss and conf/metrics.
    """

    KINDS: ClassVar[tuple[str, ...]] = ("classes", "values", "labels", "tokens")
    kind: ClassVar[str] = ""
    dtype: ClassVar[torch.dtype] = torch.float32  # of sums in metrics

    def __init__(self, names: Sequence[str] = ()) -> None:
        super().__init__()
        self.names = list(names)

    def sizes(self) -> dict[str, int]:
        """Return the sizes that models and metrics may name: `num_classes`, `num_labels`, `num_outputs`, …"""
        return {}

    def for_loss(self, outputs: Any, targets: Any, takes: str | None = None) -> tuple[Any, Any]:
        """Return the arguments of a criterion that compares `takes`; see `descent.losses`."""
        return outputs, targets

    def for_metrics(self, outputs: Any, targets: Any) -> tuple[Any, Any]:
        """Return predictions and targets for metrics, as people read them."""
        return outputs, targets

    def predict(self, outputs: Any) -> Any:
        """Return predictions for people: probabilities, or values in their own units."""
        return outputs

    def describe(self) -> dict[str, Any]:
        """Return plain values from which a saved run's task can be rebuilt."""
        return {"_target_": f"{type(self).__module__}.{type(self).__qualname__}", "names": self.names}


class Classes(Task):
    """One of several classes, for each sample, pixel or position.

    Outputs are logits `(n, classes, …)`; targets are indices, int64 `(n, …)`, of which -100 does not count,
    or probabilities `(n, classes, …)` such as mixup makes.
    """

    kind = "classes"

    def sizes(self) -> dict[str, int]:
        return {"num_classes": len(self.names), "ignore_index": IGNORED}

    def for_loss(self, outputs: Tensor, targets: Tensor, takes: str | None = None) -> tuple[Tensor, Tensor]:
        """Return logits and classes; or, for a criterion that compares

        - "values": `softmax(logits)` and the one-hot class. With `MeanAbsoluteError` this is the loss of
          Ghosh, Kumar & Sastry (2017), with `torch.nn.MSELoss` the Brier score (1950).
        - "one_hot": logits and the one-hot class, one yes-or-no question for each class.
        - "log_probabilities": `log_softmax(logits)` and classes.
        """
        if takes in ("values", "one_hot") and not targets.is_floating_point():
            targets = F.one_hot(targets, outputs.shape[1]).movedim(-1, 1).to(outputs.dtype)
        if takes == "values":
            outputs = outputs.softmax(1)
        elif takes == "log_probabilities":
            outputs = outputs.log_softmax(1)
        return outputs, targets

    def for_metrics(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return probabilities `(n, classes, …)`, float32, and class indices `(n, …)`."""
        return self.predict(outputs.float()), targets.argmax(1) if targets.is_floating_point() else targets

    def predict(self, outputs: Tensor) -> Tensor:
        return outputs.softmax(1)


class Labels(Task):
    """Several yes-or-no answers for each sample: logits and targets of 0 and 1, `(n, labels)`."""

    kind = "labels"

    def sizes(self) -> dict[str, int]:
        return {"num_labels": len(self.names)}

    def for_loss(self, outputs: Tensor, targets: Tensor, takes: str | None = None) -> tuple[Tensor, Tensor]:
        return (outputs.sigmoid() if takes == "values" else outputs), targets.to(outputs.dtype)

    def for_metrics(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        return self.predict(outputs.float()), targets.long()

    def predict(self, outputs: Tensor) -> Tensor:
        return outputs.sigmoid()


class Tokens(Task):
    """The next token at each position: logits `(n, length, vocabulary)`, targets int64 `(n, length)`.

    The token `pad` fills short lines and does not count.
    """

    kind = "tokens"

    def __init__(self, names: Sequence[str] = (), pad: int = IGNORED) -> None:
        super().__init__(names)
        self.pad = pad

    def sizes(self) -> dict[str, int]:
        return {"num_classes": len(self.names), "vocabulary": len(self.names)}

    def for_loss(self, outputs: Tensor, targets: Tensor, takes: str | None = None) -> tuple[Tensor, Tensor]:
        """Return logits `(n * length, vocabulary)` and tokens `(n * length,)`, padding as -100."""
        logits, tokens = (part.flatten(0, 1) for part in self.for_metrics(outputs, targets))
        return (logits.log_softmax(1) if takes == "log_probabilities" else logits), tokens

    def for_metrics(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits `(n, length, vocabulary)`, as for `torchmetrics.text.Perplexity`, and tokens."""
        return outputs.float(), targets.masked_fill(targets == self.pad, IGNORED)

    def predict(self, outputs: Tensor) -> Tensor:
        return outputs.softmax(-1)

    def describe(self) -> dict[str, Any]:
        return {**super().describe(), "pad": self.pad}


class Values(Precise, Task):
    """Real values `(n, outputs)`; the network learns them standardised by mean and std `(outputs,)`."""

    kind = "values"
    dtype = torch.float64
    mean: Tensor
    std: Tensor

    def __init__(
        self, names: Sequence[str] = (), mean: Tensor | None = None, std: Tensor | None = None
    ) -> None:
        super().__init__(names)
        n = len(self.names)
        self.register_buffer("mean", (torch.zeros(n) if mean is None else mean).double())
        self.register_buffer("std", (torch.ones(n) if std is None else std).double())

    def standardise(self, targets: Tensor) -> Tensor:
        """Turn values in their own units and precision into what the network learns, float32."""
        return ((targets.double() - self.mean) / self.std).float()

    def sizes(self) -> dict[str, int]:
        return {"num_outputs": len(self.names)}

    def for_loss(self, outputs: Tensor, targets: Tensor, takes: str | None = None) -> tuple[Tensor, Tensor]:
        if takes not in (None, "values"):
            kinds = "a loss on values (mae, mse, huber, smooth_l1, l1)"
            raise ConfigError("loss", expected=f"{kinds}, not one on {takes}: the targets are real numbers")
        return outputs, targets

    def for_metrics(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        return self.predict(outputs), self.predict(targets)

    def predict(self, outputs: Tensor) -> Tensor:
        """Return values in their own units, float64; float32 on a device that has no float64."""
        dtype = torch.float32 if outputs.device.type == "mps" else torch.float64
        mean, std = (value.to(dtype).to(outputs.device) for value in (self.mean, self.std))
        return outputs.to(dtype) * std + mean
