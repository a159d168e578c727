"""Learning rate schedules: any torch scheduler, made as long as the run."""

from collections.abc import Callable
from math import cos, isinf, pi
from typing import Any, Literal

from lightning.pytorch import Trainer
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau

from descent.errors import require

LENGTHS = ("T_max", "total_steps", "total_iters", "step_size")  # torch's words for a length


class Schedule:
    """A scheduler, and when to step it.

    Args:
        scheduler: takes `(optimizer, **arguments)`; a class of `torch.optim.lr_scheduler`, or a function.
        interval: "step" (after each optimizer step) or "epoch".
        monitor: the metric that ReduceLROnPlateau watches, such as "val/loss".
        arguments: the scheduler's own. A length that is None, such as `T_max`, becomes that of the whole
            run, in steps or epochs as `interval` says.
    """

    def __init__(
        self,
        scheduler: Callable[..., Any],
        interval: Literal["step", "epoch"],
        monitor: str | None = None,
        **arguments: Any,
    ) -> None:
        self.scheduler, self.interval, self.monitor, self.arguments = scheduler, interval, monitor, arguments

    def build(self, optimizer: Optimizer, trainer: Trainer) -> dict[str, Any]:
        """Return what `configure_optimizers` calls "lr_scheduler"; a plateau is checked at validations."""
        steps, epochs = trainer.estimated_stepping_batches, trainer.max_epochs or 0
        arguments, length = dict(self.arguments), steps if self.interval == "step" else epochs
        for name in arguments.keys() & {*LENGTHS}:
            if arguments[name] is None:
                endless = isinf(steps) or length < 1
                require(not endless, name, None, "a number, because this run has no fixed length")
                arguments[name] = int(length)
            require(arguments[name] >= 1, name, arguments[name], "a whole number of at least 1")
        scheduler = self.scheduler(optimizer, **arguments)
        settings: dict[str, Any] = {"scheduler": scheduler, "interval": self.interval}
        if isinstance(scheduler, ReduceLROnPlateau):
            expected = "epoch, because the monitored metric is known once an epoch"
            require(self.interval == "epoch", "interval", self.interval, expected)
            settings |= {"monitor": self.monitor, "frequency": trainer.check_val_every_n_epoch or 1}
        return settings


def cosine_warmup(optimizer: Optimizer, total_steps: int, warmup: float, final: float) -> LambdaLR:
    """Warm up linearly from 0, then follow half a cosine down (Loshchilov & Hutter, "SGDR", 2017).

    `warmup` is the share of the `total_steps` in which the rate rises to `lr`; `final` the last rate, and the
    rate afterwards, as a share of `lr`.
    """
    require(0 <= warmup < 1, "warmup", warmup, "a share of the run, from 0 up to, not including, 1")
    rising = int(warmup * total_steps)

    def factor(step: int) -> float:
        if step < rising:
            return (step + 1) / rising
        progress = min(1.0, (step - rising) / max(1, total_steps - rising))
        return final + (1 - final) * 0.5 * (1 + cos(pi * progress))

    return LambdaLR(optimizer, factor)
