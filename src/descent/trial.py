"""Tries one batch on the model, the criterion and the metrics before a run trains."""

from copy import deepcopy
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from descent.errors import ConfigError, first_line
from descent.nested import map_tensors

if TYPE_CHECKING:
    from descent.module import Supervised


def try_out(module: "Supervised", inputs: Any, targets: Any) -> None:
    """Send one batch through everything without side effects; a mismatch raises a `ConfigError`."""
    modes = {part: part.training for part in module.modules()}
    with torch.random.fork_rng(), torch.inference_mode(False), torch.enable_grad():
        inputs, targets = map_tensors((inputs, targets), Tensor.clone)  # inference mode makes no graph
        outputs = module.model.eval()(inputs)
        while isinstance(outputs, Tensor) and outputs.dim() > 1 and len(outputs) in (1, *outputs.shape[1:]):
            # as many samples as classes, or one, would hide that (n, classes) and (n,) are subtracted
            parts = (inputs, outputs, targets)
            inputs, outputs, targets = map_tensors(parts, lambda values: torch.cat([values, values[:1]]))
        try:
            loss = module.compute_loss(inputs, outputs, targets)
        except (TypeError, ValueError, RuntimeError, IndexError, AttributeError) as error:
            if isinstance(error, ConfigError):
                raise
            shapes = " and ".join(str(tuple(getattr(part, "shape", ()))) for part in (outputs, targets))
            hint = "" if module.takes else '; one that compares values has takes = "values"'
            expected = f"a criterion that takes {shapes} of this data ({first_line(error)}){hint}"
            raise ConfigError("loss", expected=expected) from error
        if getattr(getattr(module._trainer, "datamodule", None), "ends_with_one", False):
            try:
                deepcopy(module.model).train()(inputs[:1])
            except ValueError as error:
                expected = f"another size, or data.drop_last=true: an epoch ends with one sample ({error})"
                raise ConfigError("data.batch_size", expected=expected) from error
    if not isinstance(loss, Tensor) or loss.dim() > 0:
        shape = tuple(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
        expected = f"one number for a batch, such as by the reduction mean or sum, not {shape}"
        raise ConfigError("loss", expected=expected)
    if not loss.requires_grad and any(p.requires_grad for p in module.model.parameters()):
        raise ConfigError("loss", expected="a loss that depends on the model's outputs, for backward")
    module.val_metrics.try_out(map_tensors(outputs, Tensor.detach), targets)
    for part, training in modes.items():
        part.training = training
