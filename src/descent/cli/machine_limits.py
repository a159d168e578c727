"""What a config asks of the machine that the machine does not have."""

import os
from collections.abc import Iterator, Mapping
from typing import Any

from descent.errors import ConfigError


def check_machine(config: Mapping[str, Any]) -> Iterator[ConfigError]:
    """Yield what is wrong with a config of plain values, for which libraries would end in a traceback."""
    from lightning.pytorch.accelerators import AcceleratorRegistry

    most = max(64, os.cpu_count() or 1)  # starting far more would end the process
    if config["threads"] != "auto" and not 1 <= config["threads"] <= most:
        yield ConfigError("threads", config["threads"], expected=f"auto, or a whole number from 1 to {most}")
    registered = AcceleratorRegistry.available_accelerators()
    names, there = [*registered, "gpu", "auto"], [name for name in registered if is_available(name)]
    trainer = {"accelerator": "auto", "devices": "auto", "num_nodes": 1, **config["trainer"]}
    value, key = trainer["accelerator"], "trainer.accelerator"
    if value not in names:
        yield ConfigError(key, value, expected=f"one of {', '.join(names)}", choices=names)
    elif value not in ("auto", *there) and not (value == "gpu" and {"cuda", "mps"} & set(there)):
        yield ConfigError(key, value, expected=f"what this machine has: {', '.join(there)}, or auto")
    on_cpu = value == "cpu" or (value == "auto" and there == ["cpu"])
    if on_cpu and isinstance(trainer["devices"], int) and trainer["devices"] > most:
        yield ConfigError("trainer.devices", trainer["devices"], expected=f"at most {most} processes")
    if trainer["num_nodes"] > 1 and not {"MASTER_ADDR", "SLURM_JOB_ID"} & set(os.environ):
        expected = "1, or MASTER_ADDR, MASTER_PORT and NODE_RANK set, as each node needs to find the others"
        yield ConfigError("trainer.num_nodes", trainer["num_nodes"], expected=expected)


def is_available(name: str) -> bool:
    """Whether the machine has an accelerator of this name, and Python the package that it needs."""
    from lightning.pytorch.accelerators import AcceleratorRegistry

    try:
        return bool(AcceleratorRegistry.get(name).is_available())
    except ModuleNotFoundError:
        return False
