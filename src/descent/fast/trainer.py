"""The Trainer of `trainer=fast`."""

from typing import Any

import lightning

from descent.fast.loop import HELD_AGAINST, LeanLoop
from descent.trainer import Trainer


class FastTrainer(Trainer):
    """A Trainer whose loop calls only overridden hooks, with the same bits."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        if lightning.__version__ in HELD_AGAINST:
            self.fit_loop.epoch_loop = LeanLoop(self, self.min_steps, self.max_steps)
        else:
            held, this = ", ".join(HELD_AGAINST), lightning.__version__
            print(f"trainer=fast was tested with Lightning {held}; {this} runs its own loop")
