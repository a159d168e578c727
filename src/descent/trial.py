"""Tries one batch on the model, the criterion and the metrics before a run trains."""

from copy import deepcopy
from typing import Any

import torch
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor

from descent.errors import ConfigError, first_line


def try_out(module: Any, inputs: Any, targets: Any) -> None:
    """Send one batch through a `Supervised` without side effects; a mismatch raises a `ConfigError`."""
    modes = {part: part.training for part in module.modules()}
    with torch.random.fork_rng(), torch.inference_mode(False), torch.enable_grad():
        # clones, because tensors of inference mode make no graph
        inputs, targets = apply_to_collection((inputs, targets), Tensor, Tensor.clone)
        outputs = module.model.eval()(inputs)
        while isinstance(outputs, Tensor) and outputs.dim() > 1 and len(outputs) in (1, *outputs.shape[1:]):
            # as many samples as classes, or one, would hide that (n, classes) and (n,) are subtracted
            parts = (inputs, outputs, targets)
            inputs, outputs, targets = apply_to_collection(parts, Tensor, lambda t: torch.cat([t, t[:1]]))
        try:
            loss = module.compute_loss(inputs, outputs, targets)
        except ConfigError:
            raise
        except (TypeError, ValueError, RuntimeError, IndexError, AttributeError) as error:
            shapes = " and ".join(str(tuple(getattr(part, "shape", ()))) for part in (outputs, targets))
            hint = "" if module.takes else '; one that compares values has takes = "values"'
            expected = f"a criterion that takes {shapes} of this data ({first_line(error)}){hint}"
            raise ConfigError("loss", expected=expected) from error
        if getattr(getattr(module._trainer, "datamodule", None), "ends_with_one", False):
            try:
                deepcopy(module.model).train()(inputs[:1])
            except ValueError as error:  # of batch normalisation
                reason = f"because an epoch ends with a batch of one ({error})"
                expected = f"another size, or data.drop_last=true, {reason}"
                raise ConfigError("data.batch_size", expected=expected) from error
    shape = tuple(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
    if shape != ():
        expected = f"one number per batch, as with reduction=mean or sum, not {shape}"
        raise ConfigError("loss", expected=expected)
    if not loss.requires_grad and any(p.requires_grad for p in module.model.parameters()):
        raise ConfigError("loss", expected="a loss that depends on the model's outputs, for backward")
    module.val_metrics.try_out(apply_to_collection(outputs, Tensor, Tensor.detach), targets)
    for part, training in modes.items():
        part.training = training
