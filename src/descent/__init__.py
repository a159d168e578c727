"""The package that the commands and the `_target_` lines of conf/ name.

In a notebook: `from descent import compose, train`; `run = train(compose("loss=mae", "optimizer=sgd"))`.
"""

from typing import Any

__all__ = ["compose", "train"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name in __all__:  # imported only now, because most users of the package need neither
        import descent.notebook

        return getattr(descent.notebook, name)
    raise AttributeError(name)
