"""The Trainer of `trainer=fast`."""

from typing import Any

import lightning

from descent.fast.loop import HELD_AGAINST, LeanLoop
from descent.trainer import Trainer


class FastTrainer(Trainer):
    """A Trainer that calls around each batch only those hooks that something overrides (`descent.fast.loop`).

    A run has the same bits as with Lightning's own loop. See `descent.trainer.Trainer` for the arguments.
    """

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        if lightning.__version__ in HELD_AGAINST:
            self.fit_loop.epoch_loop = LeanLoop(self, self.min_steps, self.max_steps)
        else:
            held = ", ".join(HELD_AGAINST)
            print(
                f"trainer=fast was held against Lightning {held}; {lightning.__version__} runs its own loop"
            )
