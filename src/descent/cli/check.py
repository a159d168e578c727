"""Every value of a config against the signature of what it is meant for, before anything is built."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import Any, Literal

from descent.cli.paths import list_choices, list_groups
from descent.cli.signatures import (
    LARGEST,
    accepts,
    expectation,
    is_number,
    literals,
    read_signature,
    too_large,
)
from descent.cli.words import as_shell, quote
from descent.errors import ConfigError, as_typed, nearest
from descent.run.trust import kind_of, resolve

TYPES: dict[str, Any] = {  # of the fields that belong to no `_target_`, or that a command makes another of
    "name": str,
    "folder": str,
    "seed": int,
    "threads": int | Literal["auto"],
    "loop": Literal["lean", "lightning"],
    "compile": bool | Literal["step"],
    "monitor": str,
    "mode": Literal["min", "max"],
    "checkpoint.every": str,
    "on_nan": Literal["stop", "skip"],
    "jobs": int | Literal["auto"],
    "trials": int,
    "fold": int | None,
    "folds": int,
    "resume": bool | str | None,
    "init_from": str | None,
    "freeze": list[str],
    "trainer.max_epochs": int | Literal["auto"] | None,
    # of evaluate, predict and export
    "run": str | None,
    "runs": list[str],
    "by": str | None,
    "weights": Literal["best", "last"],
    "input": str | None,
    "output": str | None,
    "keep": list[str],
    "split": Literal["train", "val", "test"],
    "format": Literal["onnx", "torch_export"],
    "batch_size": int,
    "device": str,
    "overwrite": bool,
    "allow": list[str],
}
BOUNDS = {  # of numbers that libraries do not look at, or only when it is too late
    "seed": (0, 2**32 - 1),
    "jobs": (1, inf),
    "trainer.accumulate_grad_batches": (1, inf),
    "trainer.check_val_every_n_epoch": (1, inf),
    "trainer.gradient_clip_val": (0, inf),
    "trainer.log_every_n_steps": (0, inf),
    "trainer.max_epochs": (-1, inf),
    "trainer.max_steps": (-1, inf),
    "trainer.num_nodes": (1, inf),
    "trainer.num_sanity_val_steps": (-1, inf),
    "trainer.reload_dataloaders_every_n_epochs": (0, inf),
    "trainer.val_check_interval": (1e-6, inf),
    "logger.csv.flush_logs_every_n_steps": (1, inf),
    "optimizer.history_size": (1, inf),  # of LBFGS
    "optimizer.ns_steps": (1, 99),  # of Muon
    "scheduler.power": (0, inf),  # of a polynomial, whose last rate would else be infinite
    "callbacks.summary.max_depth": (-1, inf),
}
COLLECTIONS = ("callbacks", "logger", "metrics")  # groups of several nodes, each with a name
EMPTY = (*COLLECTIONS, "scheduler", "search")  # groups that may have nothing in them
PARTIALS: dict[str, bool | None] = {
    "optimizer": True,
    "scheduler": True,
    "source": True,
    "metric": None,
}  # whether the code completes it
GIVEN: dict[str, tuple[str, ...]] = {  # what the run hands over, by the kind of what takes it
    "data": ("like",),
    "model": ("input_shape", "outputs"),
    "module": ("model", "criterion", "optimizer", "schedule", "metrics", "scaling"),
    "optimizer": ("params",),
    "trainer": ("callbacks", "logger", "default_root_dir"),
}
HYDRA = {  # what Hydra itself reads in a node
    "_target_": str,
    "_partial_": bool,
    "_recursive_": bool,
    "_convert_": Literal["none", "partial", "object", "all"],
    "_args_": list,
}


def check(config: Mapping[str, Any], overrides: Mapping[str, str], fields: Mapping[str, Any]) -> "Check":
    """Hold every value of a config against what it is meant for.

    Args:
        config: as composed and resolved, plain values.
        overrides: the command line's, by key.
        fields: what the config has at its root, as the command's own file lists it: null where a group goes.

    Returns:
        What was found; nothing was changed.
    """
    found = Check(config, overrides)
    groups = [name for name in fields if name in list_groups()]
    found.check_fields("", {k: v for k, v in config.items() if k not in groups}, fields)
    for group in groups:
        found.check_group(group, config.get(group))
    return found


@dataclass
class Check:
    """What is wrong with a config, and what nobody reads.

    Attributes:
        config: the plain values.
        overrides: the command line's, by key.
        problems: in the order of the config.
        left_out: arguments that their target does not take and nobody asked for, such as those of the file's
            own loss after `loss._target_=torch.nn.SoftMarginLoss`: the target, by key.
    """

    config: Mapping[str, Any]
    overrides: Mapping[str, str]
    problems: list[ConfigError] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)

    def refuse(self, key: str, value: Any, expected: str, near: str = "") -> None:
        """Add a problem."""
        problem = ConfigError(key, value, expected=expected)
        problem.nearest = near
        self.problems.append(problem)

    def check_group(self, group: str, value: Any) -> None:
        """Check that a group is one of its files, or for some groups several, and all that is in it."""
        empty = group in EMPTY and value == {}
        several = self.overrides.get(group, "").startswith("[") and group != "metrics"
        collection = group in COLLECTIONS and isinstance(value, dict) and "_target_" not in value
        node = isinstance(value, dict) and "_target_" in value and group not in COLLECTIONS
        if several or not (empty or collection or node):  # Hydra would mix several files
            given, known = self.overrides.get(group, value), list_choices(group)
            self.refuse(group, given, f"one of {', '.join(known)}", nearest(as_typed(given), known))
        elif collection:
            self.check_collection(group, value)
        elif node:
            self.check_node(group, value)

    def check_collection(self, key: str, nodes: Mapping[str, Any]) -> None:
        """Check nodes that have names; those of metrics may be meant for one task."""
        for name, node in nodes.items():
            if key == "metrics" and name in ("classification", "regression") and isinstance(node, dict):
                self.check_collection(f"{key}.{name}", node)
            elif isinstance(node, dict) and "_target_" in node:
                self.check_node(f"{key}.{name}", node)
            else:
                way = f"fields, one of them a _target_, or ~{key}.{name}, which leaves it out"
                self.refuse(f"{key}.{name}", node, way)

    def check_node(self, key: str, node: Mapping[str, Any]) -> None:
        """Check a part of the config and all below it against the signature of its `_target_`."""
        for name, value in node.items():
            if isinstance(value, dict) and "_target_" in value:
                self.check_node(f"{key}.{name}", value)
            elif name in HYDRA and name != "_target_":
                self.check_value(f"{key}.{name}", value, HYDRA[name])
        kind = kind_of(key)
        partial, needed = node.get("_partial_", False), PARTIALS.get(kind, False)
        if kind != "part" and needed is not None and isinstance(partial, bool) and partial is not needed:
            self.refuse(f"{key}._partial_", partial, str(needed).lower())
        try:
            target = resolve(f"{key}._target_", node["_target_"], kind)
            inner = next((k for k, v in node.items() if is_partial(v)), None)
            name = f"{key}.{inner}"
            passed_on = inner and resolve(f"{name}._target_", node[inner]["_target_"], kind_of(name))
            signature = read_signature(target, passed_on or None)
        except ConfigError as error:
            self.problems.append(error)
            return
        except ValueError:  # of some types that are built into Python
            known = "a class or function whose arguments are known"
            self.refuse(f"{key}._target_", node["_target_"], known)
            return
        for name, value in node.items():
            if name in HYDRA:
                continue
            if name in GIVEN.get(kind, ()):
                self.refuse(f"{key}.{name}", value, "no word for it: it is the run that gives it")
            elif name not in signature.names and not signature.open_ended:
                self.leave_out(f"{key}.{name}", str(node["_target_"]), signature.names)
            elif name in signature.hints and not (isinstance(value, dict) and "_target_" in value):
                hint = TYPES.get(f"{key}.{name}", signature.hints[name])
                self.check_value(f"{key}.{name}", value, hint)

    def leave_out(self, key: str, target: str, known: set[str]) -> None:
        """Tell of an argument that its target does not take: a problem if somebody asked for it."""
        asked = next((k for k in self.overrides if k == key or ("." in k and key.startswith(f"{k}."))), None)
        if asked is None:
            self.left_out[key] = target
        else:
            near = nearest(key.rpartition(".")[2], known)
            self.refuse(key, self.overrides.get(key, "…"), f"an argument of {target}", near)

    def check_fields(self, prefix: str, values: Mapping[str, Any], fields: Mapping[str, Any]) -> None:
        """Check fields that belong to no group: all are there, no others, and of the right type."""
        for name in (*fields, *(name for name in values if name not in fields)):
            key, value = f"{prefix}{name}", values.get(name)
            if name not in fields:
                asked = next((k for k in self.overrides if f"{k}.".startswith(f"{key}.")), key)
                near = nearest(key, [*fields, *list_groups()])
                self.refuse(asked, self.overrides.get(asked, value), "a key of the config", near)
            elif isinstance(fields[name], dict) and isinstance(value, dict):
                self.check_fields(f"{key}.", value, fields[name])
            elif isinstance(fields[name], dict):
                self.refuse(key, value, "fields")
            elif name not in values and name not in list_groups():
                self.problems.append(ConfigError(f"~{key}", expected=f"a config that has {key}"))
            elif key in TYPES:
                self.check_value(key, value, TYPES[key])
        if prefix == "" and ".." in Path(str(values.get("name"))).parts:
            self.refuse("name", values["name"], "a name that leads nowhere else")
        folder = str(values.get("folder"))
        if prefix == "" and (re.search(r"\$[{A-Za-z_]", folder) or os.path.expandvars(folder) != folder):
            # what is built of it would be a reference, and some loggers replace what a shell would; a
            # variable that is not set now may be when the run is resumed
            self.refuse("folder", folder, "a path without ${ and names of variables")

    def check_value(self, key: str, value: Any, hint: Any) -> None:
        """Check a plain value against a type and its bounds."""
        if accepts(value, hint):
            least, most = BOUNDS.get(key, (-inf, inf))
            if is_number(value) and not least <= value <= most:
                words = f"at least {least}" if most == inf else f"{least} to {most}"
                self.refuse(key, value, f"a {'' if accepts(0.5, hint) else 'whole '}number of {words}")
            return
        typed = self.overrides.get(key, "")
        expected = expectation(hint)
        if too_large(value) and accepts(0.5, hint):
            expected = f"a number of at most {LARGEST:g}"
        elif typed and not typed.startswith("'") and accepts("text", hint):
            expected += f": {as_shell(f'{key}={quote(typed)}')}"
        elif isinstance(value, str) and "," in value and not accepts([], hint):
            expected += ", or -m for a run of each"
        self.refuse(key, value, expected, nearest(str(value), literals(hint)))


def is_partial(node: Any) -> bool:
    """Whether the node above completes this one, with the arguments that it does not take itself."""
    return isinstance(node, dict) and "_target_" in node and node.get("_partial_") is True
