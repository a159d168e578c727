"""A small network learns from the outputs of another run's network, in addition to the true classes."""

import torch
from torch import Tensor
from torch.nn import functional as F

from descent.build import build_node
from descent.data.described import find_sizes
from descent.module import Supervised
from descent.run.saved import read_run
from descent.run.trust import list_allowed


class Distilled(Supervised):
    """Knowledge distillation (Hinton, Vinyals & Dean, 2015).

    Args:
        teacher: folder of a run on the same data.
        temperature: divides the logits, so that small probabilities count.
        share: the teacher's share of the loss.
        data: this run's data.
        parts: the arguments of `Supervised`.
    """

    def __init__(self, teacher: str, temperature: float, share: float, data: object, **parts) -> None:
        super().__init__(**parts)
        run = read_run(teacher, "best", key="module.teacher")
        network = build_node("module.teacher", run.config["model"], find_sizes(data), list_allowed())
        network.load_state_dict(run.weights("model"))
        self.teacher = (network.eval(),)  # in a tuple, so that its weights are not this module's
        self.temperature, self.share = temperature, share

    def compute_loss(self, inputs: Tensor, outputs: Tensor, targets: Tensor) -> Tensor:
        with torch.no_grad():
            taught = self.teacher[0].to(inputs.device)(inputs) / self.temperature
        own = (outputs / self.temperature).log_softmax(1)
        distance = F.kl_div(own, taught.log_softmax(1), log_target=True, reduction="batchmean")
        truth = super().compute_loss(inputs, outputs, targets)
        return (1 - self.share) * truth + self.share * self.temperature**2 * distance
