"""The functions that conf/ calls, such as `${choices:}` and `${run_folder:name}`, and the help that does."""

import re
from collections.abc import Callable
from datetime import datetime
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from descent.cli.compose import list_overrides
from descent.cli.paths import CONF, DATASETS, LOGS, list_choices
from descent.run.resume import key_of


def register_resolvers() -> None:
    """Make the functions known to OmegaConf."""
    resolvers: dict[str, Callable[..., Any]] = {
        "choices": describe_choices,
        "run_name": name_run,
        "run_folder": lambda name: str(LOGS / f"{name}-{datetime.now():%Y%m%d-%H%M%S}"),
        "logs": lambda: str(LOGS),
        "datasets": lambda: str(DATASETS),
    }
    for name, resolver in resolvers.items():
        OmegaConf.register_new_resolver(name, resolver, replace=True)


def print_help(name: str) -> None:
    """Print the help of a command; Hydra would list the files of each group twice to print the same."""
    print(OmegaConf.load(CONF / f"{name}.yaml").hydra.help.template)


def describe_choices() -> str:
    """Return, for `--help`, each word of each group with the comment that its file begins with."""
    lines = []
    for item in OmegaConf.load(CONF / "train.yaml").defaults:
        for group, default in item.items() if item != "_self_" else ():
            lines += ["", f"{group}  [{default}]" if default else group]
            for word in list_choices(group):
                comments = (CONF / group / f"{word}.yaml").read_text(encoding="utf-8").splitlines()
                lines.append(f"  {word:<22}{next(c for c in comments if '@package' not in c).lstrip('# ')}")
    return "\n".join(lines) + "\n"


def name_run() -> str:
    """Return `mae-sgd-mlp-digits`, followed by the values that the command line sets, such as `lr=0.1`."""
    chosen = dict(HydraConfig.get().runtime.choices)
    values = []
    for word in list_overrides():
        key, value = key_of(word), word.partition("=")[2]
        group, _, field = key.rpartition(".")
        if field == "_target_" and group in chosen:
            chosen[group] = value.rpartition(".")[2]
        elif key not in chosen and key not in ("name", "folder", "resume", "metrics"):
            values.append(f"{field}={value}")
    groups = ("experiment", "loss", "optimizer", "model", "data")
    words = [chosen[group] for group in groups if chosen.get(group) not in (None, "default")]
    return re.sub(r"[^\w.=+-]+", "_", "-".join([*words, *values]))[:120]
