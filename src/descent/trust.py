"""Which classes a config that came with a checkpoint may name: it is input, and a `_target_` runs code."""

from collections.abc import Iterable, Iterator, Mapping
from pydoc import locate
from typing import Any

from descent.errors import ConfigError

MODULES = (
    "descent",
    "lightning.pytorch",
    "timm",
    "torch.nn",
    "torch.optim",
    "torchmetrics",
    "torchvision.models",
    "torchvision.transforms",
)


def require_trusted(config: Any, also: Iterable[str] = ()) -> None:
    """Refuse a config with a `_target_` outside MODULES, before anything of it is imported.

    Args:
        config: plain dicts and lists, as read from a file.
        also: further targets to allow, such as those that a person has just typed.

    Raises:
        ConfigError: naming the key and the target.
    """
    also = set(also)
    named = [(key, target) for key, target in targets(config) if target not in also]
    # all names first: not even the import of a module is for such a config to ask for
    for is_trusted in (within, leads_within):
        for key, target in named:
            if not is_trusted(target):
                raise ConfigError(
                    f"{key}={target}: refused, for a config from a file may only name classes of"
                    f" {', '.join(MODULES)}; to allow it, give it on the command line"
                )


def within(name: object) -> bool:
    """Whether a dotted name lies in one of MODULES."""
    return isinstance(name, str) and any(name.startswith(f"{module}.") for module in MODULES)


def leads_within(name: str) -> bool:
    """Whether what a name stands for is defined in MODULES too: `torch.nn.init.torch.hub.load` is not."""
    found = locate(name)
    return found is None or within(f"{getattr(found, '__module__', '')}.")


def targets(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every `_target_` of nested dicts and lists, with its key."""
    items: Iterable[tuple[Any, Any]] = ()
    if isinstance(config, Mapping):
        items = config.items()
    elif isinstance(config, list | tuple):
        items = enumerate(config)
    for name, value in items:
        key = f"{prefix}.{name}" if prefix else str(name)
        if name == "_target_":
            yield key, value
        else:
            yield from targets(value, key)
