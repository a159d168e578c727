"""From a part of the config to the object that it describes."""

from collections.abc import Callable
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig

from descent.errors import blame


def builder(config: DictConfig) -> Callable[..., Any]:
    """Return `build`, so that `build("model", outputs=10)` is `hydra.utils.instantiate(config.model, …)`.

    A group of named nodes gives a dict of what they describe, and null gives None. An exception is told as
    the fault of that part of the config; see `blame`.
    """

    def build(key: str, **more: Any) -> Any:
        return build_node(key, config.get(key), more)

    return build


def build_node(key: str, node: Any, more: dict[str, Any]) -> Any:
    """Build a node, or each node below it."""
    if isinstance(node, DictConfig) and "_target_" not in node:
        return {str(name): build_node(f"{key}.{name!s}", child, {}) for name, child in node.items()}
    if node is None:
        return None
    with blame(key):
        try:
            if not more:
                return instantiate(node, _convert_="all")
            part = instantiate(node, _convert_="all", _partial_=True)
        except InstantiationException as error:
            cause: BaseException = error
            while isinstance(cause, InstantiationException) and cause.__cause__ is not None:
                cause = cause.__cause__
            raise cause from None
        return part(**more)  # not through Hydra, which would turn tuples into lists
