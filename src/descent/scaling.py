"""What stands between raw samples and the network, in both directions."""

from typing import Literal

import torch
from torch import Tensor, nn

Activation = Literal["none", "softmax", "sigmoid"]


class Scaling(nn.Module):
    """Turns raw inputs into what the network sees, and what it returns into the target's own units.

    Training, metrics, prediction and export all use this one class. Its numbers are the training split's.

    Args:
        input_mean, input_std: normalise the inputs; they broadcast against a batch.
        target_mean, target_std: standardise values, shape `(outputs,)`; 0 and 1 for classes.
        encoder: is applied to raw inputs first, such as a table's categories to ones and zeros.
        activation: turns the network's outputs into probabilities; "none" for values.
    """

    input_mean: Tensor
    input_std: Tensor
    target_mean: Tensor
    target_std: Tensor

    def __init__(
        self,
        input_mean: Tensor,
        input_std: Tensor,
        target_mean: Tensor,
        target_std: Tensor,
        encoder: nn.Module | None = None,
        activation: Activation = "none",
    ) -> None:
        super().__init__()
        self.encoder, self.activation = encoder, activation
        self.register_buffer("input_mean", input_mean)
        self.register_buffer("input_std", input_std)
        self.register_buffer("target_mean", target_mean)
        self.register_buffer("target_std", target_std)

    def scale(self, inputs: Tensor) -> Tensor:
        """Turn raw inputs `(batch, ...)` of any dtype into what the network sees, `(batch, *input_shape)`."""
        if self.encoder is not None:
            inputs = self.encoder(inputs)
        if inputs.dtype == self.input_mean.dtype:
            return torch.sub(inputs, self.input_mean).div_(self.input_std)
        return inputs.to(self.input_mean.dtype).sub_(self.input_mean).div_(self.input_std)

    def scale_targets(self, targets: Tensor) -> Tensor:
        """Standardise values `(batch, outputs)`, as the network is trained on them; leave class indices."""
        return (targets - self.target_mean) / self.target_std if targets.is_floating_point() else targets

    def unscale(self, outputs: Tensor) -> Tensor:
        """Turn the network's outputs `(batch, outputs)` into probabilities, or values in their own units."""
        if self.activation == "softmax":
            return outputs.softmax(1)
        if self.activation == "sigmoid":
            return outputs.sigmoid()
        return self.unscale_values(outputs)

    def unscale_values(self, values: Tensor) -> Tensor:
        """Turn standardised values `(batch, outputs)`, of the network or the data, into their own units."""
        return values * self.target_std + self.target_mean
