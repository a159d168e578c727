"""What a config may name, decided by what it is: a config that came with a run's folder is data, not code."""

import inspect
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import Any

from descent.errors import ConfigError, blame, first_line, nearest, require

DEPTH = 20  # of nodes within nodes: far beyond any config that a person wrote
FETCHED = ("download", "pretrained")  # arguments by which something comes from elsewhere
HYDRA = ("_target_", "_partial_", "_convert_", "_recursive_")  # words of a node that are no arguments


@dataclass(frozen=True)
class Kind:
    """What a part of the config is made of.

    Attributes:
        base: full name of the class that it is a subclass of; empty where it may be any class, or none.
        modules: where a config from a file may take classes from.
        functions: full names of those that a config from a file may name; None where no function will do.
        abstract: whether the base itself will not do.
        words: what is expected, where the base does not say it.
    """

    base: str
    modules: tuple[str, ...]
    functions: tuple[str, ...] | None = None
    abstract: bool = True
    words: str = ""

    @property
    def expected(self) -> str:
        """Say what is expected, for errors."""
        if self.words:
            return self.words
        return (
            f"a {self.base}" if self.functions is None else f"a {self.base}, or a function that returns one"
        )


NETWORKS = ("torch.nn", "torchvision.models", "timm.models", "descent.models")
LOGGERS = ("lightning.pytorch.loggers.tensorboard", "lightning.pytorch.loggers.csv_logs")
# some others of torchmetrics load models from elsewhere
METRICS = tuple(f"torchmetrics.{name}" for name in ("classification", "regression", "aggregation"))
SOURCES = tuple(
    f"descent.data.{name}"
    for name in (
        "diabetes.diabetes",
        "digits.digits",
        "images.images.images",
        "table.table.table",
        "torchvision_sets.torchvision_set",
    )
)
PARTS = {  # what a nested part from a file may be, beside what has a kind of its own, and where it is from
    "lightning.pytorch.plugins.Precision": "lightning.pytorch.plugins.precision",
    "lightning.pytorch.profilers.Profiler": "lightning.pytorch.profilers",
    "lightning.pytorch.strategies.Strategy": "lightning.pytorch.strategies",
}
KINDS = {
    "model": Kind("torch.nn.Module", NETWORKS, ("descent.models.timm",)),
    "loss": Kind("torch.nn.Module", ("torch.nn", "descent.losses"), ("descent.losses.by_task",)),
    "optimizer": Kind("torch.optim.Optimizer", ("torch.optim", "descent.optimizers"), ()),
    "schedule": Kind("descent.schedulers.Schedule", ("descent.schedulers",), abstract=False),
    "scheduler": Kind(
        "torch.optim.lr_scheduler.LRScheduler", ("torch.optim",), ("descent.schedulers.cosine_warmup",)
    ),
    "trainer": Kind(
        "lightning.pytorch.Trainer", ("lightning.pytorch.trainer", "descent.trainer"), abstract=False
    ),
    "callback": Kind("lightning.pytorch.Callback", ("lightning.pytorch.callbacks", "descent.callbacks")),
    "logger": Kind("lightning.pytorch.loggers.Logger", LOGGERS),
    "metric": Kind("torchmetrics.Metric", (*METRICS, "descent.metrics"), ()),
    "module": Kind("lightning.pytorch.LightningModule", ("descent.module",)),
    "data": Kind("descent.data.module.DataModule", ("descent.data",), ()),
    "source": Kind("", (), SOURCES, words="a function that returns Samples"),
    "part": Kind("", (*PARTS.values(), "torchvision.transforms"), (), words="a class or function"),
}


def kind_of(key: str) -> str:
    """Return the kind of what a node of the config describes: "callback" for "callbacks.checkpoint".

    What is nested in another node than those that are known is a "part".
    """
    match key.split("."):
        case ["model" | "loss" | "optimizer" | "trainer" | "module" | "data" as kind]:
            return kind
        case ["scheduler"]:
            return "schedule"
        case ["scheduler", "scheduler"]:
            return "scheduler"
        case ["data", "source"]:
            return "source"
        case ["callbacks", _]:
            return "callback"
        case ["logger", _]:
            return "logger"
        case ["metrics", _] | ["metrics", "classification" | "regression", _]:
            return "metric"
    return "part"


def resolve(key: str, path: object, kind: str) -> Callable[..., Any]:
    """Import the class or function that a config of one's own names.

    Args:
        key: of that name in the config, such as "model._target_".
        path: the name, such as "torch.nn.Linear".
        kind: what it should be, a key of `KINDS`.

    Raises:
        ConfigError: it is no name, cannot be imported, or is something of another kind.
    """
    found = find(key, require_name(key, path))
    require_kind(key, path, found, kind, bases_of(kind))
    return found


def resolve_trusted(key: str, path: object, kind: str, allow: Sequence[str] = ()) -> Callable[..., Any]:
    """Import the class or function that a config from a file names, if it is one that cannot do harm.

    That is a class of the right kind, defined in a module that is listed for this kind, or a function that is
    listed by name. Nothing is imported for the sake of any other name.

    Args:
        key, path, kind: as of `resolve`.
        allow: modules that a person trusts, or full names of what they trust.

    Raises:
        ConfigError: beside those of `resolve`, it may not be named.
    """
    rule = KINDS[kind]
    path = require_name(key, path)
    module = path.rpartition(".")[0]
    listed = (*modules_of(kind), *allow)
    by_name = path in (rule.functions or ()) or path in allow
    # a package that holds a listed module is imported with it, and often gives its classes shorter names
    require_trust(by_name or any(within(module, m) or within(m, module) for m in listed), key, path, kind)
    found = import_from_module(key, path)
    defined_in = getattr(found, "__module__", None) or ""
    modules = listed if inspect.isclass(found) else allow
    require_trust(by_name or any(within(defined_in, m) for m in modules), key, path, kind)
    bases = bases_of(kind) or [*PARTS, *(base for name in KINDS for base in bases_of(name))]
    require_kind(key, path, found, kind, bases)
    return found


def targets(node: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the key and the `_target_` of every node of a config that has one."""
    require_depth(key)
    items: Iterable[tuple[Any, Any]] = ()
    if isinstance(node, Mapping):
        items = node.items()
        if "_target_" in node:
            yield key, node["_target_"]
    elif isinstance(node, list | tuple):
        items = enumerate(node)
    for name, value in items:
        yield from targets(value, f"{key}.{name}" if key else str(name))


def build(key: str, node: Any, allow: Sequence[str] = (), **more: Any) -> Any:
    """Make what a part of a run's config describes, as `hydra.utils.instantiate` does, of trusted names.

    Nothing is fetched for it: a run learned from what is there, and its own weights follow.

    Args:
        key: of that part, by which its kind is known.
        node: a `_target_` with arguments, which may be such nodes themselves; anything else stays as it is.
        allow: as of `resolve_trusted`.
        more: arguments beside those of the node.

    Raises:
        ConfigError: it names what it may not, or values that this does not take.
    """
    require_depth(key)
    if isinstance(node, list):
        return [build(f"{key}.{index}", value, allow) for index, value in enumerate(node)]
    if not isinstance(node, dict):
        return node
    values = {name: build(f"{key}.{name}", value, allow) for name, value in node.items() if name not in HYDRA}
    if "_target_" not in node:
        return values
    values |= {name: False for name in FETCHED if name in values}
    target = resolve_trusted(f"{key}._target_", node["_target_"], kind_of(key), allow)
    with blame(key):
        return partial(target, **values, **more) if node.get("_partial_") else target(**values, **more)


# ---- what a name stands for --------------------------------------------------------------------------------


def require_name(key: str, path: object) -> str:
    """Return a name that has a module, or raise a ConfigError."""
    if not isinstance(path, str) or not path.rpartition(".")[0]:
        raise ConfigError(key, path, expected="a class or function with its module, such as torch.nn.L1Loss")
    return path


def find(key: str, path: str) -> Any:
    """Import what a name stands for: something of a module, or of a class in one."""
    names = path.split(".")
    for count in range(len(names) - 1, 0, -1):
        module = ".".join(names[:count])
        try:
            found = import_module(module)
        except ModuleNotFoundError as error:
            if count > 1 and within(module, error.name or ""):
                continue  # it may be a class, whose method is named
            raise not_importable(key, path, error) from error
        except Exception as error:  # whatever a module of one's own raises when it is imported
            raise not_importable(key, path, error) from error
        for name in names[count:]:
            found = attribute(key, path, found, name)
        return found
    raise AssertionError("a name has a module")


def import_from_module(key: str, path: str) -> Any:
    """Import what a module, and nothing else, has by this name."""
    module, _, name = path.rpartition(".")
    try:
        owner = import_module(module)
    except Exception as error:
        raise not_importable(key, path, error) from error
    return attribute(key, path, owner, name)


def attribute(key: str, path: str, owner: Any, name: str) -> Any:
    """Return what a module or class has by this name, or raise a ConfigError with the nearest one."""
    if not hasattr(owner, name):
        near = nearest(name, [word for word in dir(owner) if not word.startswith("_")])
        choices = [f".{near}".join(path.rsplit(f".{name}", 1))] if near else []
        raise ConfigError(key, path, expected="a class or function that can be imported", choices=choices)
    return getattr(owner, name)


def not_importable(key: str, path: str, error: Exception) -> ConfigError:
    expected = f"a class or function that can be imported ({first_line(error)})"
    return ConfigError(key, path, expected=expected)


# ---- what it is --------------------------------------------------------------------------------------------


def require_kind(key: str, path: object, found: Any, kind: str, bases: Sequence[str]) -> None:
    """Raise a ConfigError unless a class or function is one that this kind is made of."""
    rule = KINDS[kind]
    if not inspect.isclass(found):
        right = rule.functions is not None and is_function(found)
    elif kind == "source" or inspect.isabstract(found):
        right = False
    else:
        known = classes_of(bases)
        right = not bases or issubclass(found, known)
        right = right and not (rule.abstract and found in known)
    require(right, key, path, f"{rule.expected}, not {describe(found)}")


def bases_of(kind: str) -> list[str]:
    """Return the full name of the class that a kind is a subclass of, if there is one."""
    return [KINDS[kind].base] if KINDS[kind].base else []


def describe(found: Any) -> str:
    """Say what something is."""
    if inspect.isclass(found):
        return "an abstract class" if inspect.isabstract(found) else f"the class {found.__name__}"
    if inspect.ismodule(found):
        return "a module"
    if inspect.isbuiltin(found):
        return "a function written in C"
    return "a function" if is_function(found) else f"a value of type {type(found).__name__}"


def is_function(found: Any) -> bool:
    """Whether something is a function or method written in Python, maybe within `functools.cache`."""
    return inspect.ismethod(found) or (callable(found) and inspect.isfunction(inspect.unwrap(found)))


def classes_of(names: Iterable[str]) -> tuple[type, ...]:
    """Return the classes of these names that are loaded; nothing can be a subclass of the others yet."""
    parts = [name.rpartition(".") for name in names]
    return tuple(getattr(sys.modules[module], name) for module, _, name in parts if module in sys.modules)


def modules_of(kind: str) -> tuple[str, ...]:
    """Return the modules from which a file's config may take a kind's classes; a part may be of any kind."""
    if kind == "part":
        return tuple(module for rule in KINDS.values() for module in rule.modules)
    return KINDS[kind].modules


def within(name: str, module: str) -> bool:
    """Whether a dotted name is that of a module or of something in it."""
    return name == module or name.startswith(f"{module}.")


def require_trust(trusted: bool, key: str, path: str, kind: str) -> None:
    """Raise a ConfigError about what a config from a file may not name."""
    names = ", ".join((*modules_of(kind), *(KINDS[kind].functions or ())))
    expected = (
        f"{KINDS[kind].expected}, of {names}; trust a module of your own with allow=[my_models], or, to"
        " resume, by typing this again"
    )
    require(trusted, key, path, expected)


def require_depth(key: str) -> None:
    require(key.count(".") < DEPTH, key.partition(".")[0], "…", f"at most {DEPTH} nodes within nodes")
