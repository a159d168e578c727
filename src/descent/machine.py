"""Sets up the machine: threads, a quiet console, and a record of the environment."""

import logging
import os
import platform
import sys
import warnings
from datetime import UTC, datetime
from math import prod
from pathlib import Path
from typing import Any

import torch

from descent.errors import require

CPUS = torch.get_num_threads()  # read before a sweep's run changes it
NUMBERS_A_THREAD = 65_536  # of a batch per thread, so that a thread costs little even on a busy machine


def set_threads(setting: int | str, data: Any) -> None:
    """Set torch's CPU threads: the setting, or for "auto" as many as a batch can use, at most torch's own.

    Threads that share a step of a few milliseconds stall whenever another program takes one of the cores:
    steps then took 6 to 50 times as long. The rule depends on sizes alone and times nothing, because the
    number of threads changes the order of sums, and therefore the weights.
    """
    if setting == "auto":
        threads, shape = CPUS, getattr(data, "sizes", {}).get("input_shape")
        if shape:
            threads = max(1, min(CPUS, getattr(data, "batch_size", 1) * prod(shape) // NUMBERS_A_THREAD))
    else:
        threads, most = int(setting), max(64, os.cpu_count() or 1)  # far more would crash the process
        require(1 <= threads <= most, "threads", setting, f"auto, or a whole number from 1 to {most}")
        os.environ["OMP_NUM_THREADS"] = str(setting)  # else Lightning sets it for each of several processes
    torch.set_num_threads(threads)


def quiet_libraries() -> None:
    """Hide output that no user can act on, such as remarks on Lightning's own code."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # reports that a process was killed while starting, before it ends the others
    logging.getLogger("lightning.fabric.strategies.launchers.subprocess_script").setLevel(logging.INFO)
    logging.getLogger("lightning.pytorch.profilers").setLevel(logging.INFO)  # the user asked for it
    for message in (
        "torch.jit.trace.*deprecated",  # by the graph, torch 2.15
        "LeafSpec",  # Lightning 2.6.6 on torch 2.12 and later
        "smaller than the logging interval",  # nothing is logged by step
        "exists and is not empty",  # a resumed run's folder
        "Be aware that when using `ckpt_path`",  # and monitor=, which starts afresh with the best weights
        "ended before the epoch ended",  # the loaders start where they are told to
        "recommended to use .self.log.*sync_dist=True",  # logged values already cover all processes
        "will save all targets and predictions",  # the user chose the metric
        "does not have many workers",  # a user's loader: its samples may be in memory
    ):
        warnings.filterwarnings("ignore", message=f"(?s).*{message}")


def describe_environment() -> dict[str, Any]:
    """Return the machine and every installed package, enough to recreate the environment."""
    # the folders' names contain the versions; reading their files would take a tenth of a second
    folders = (path for place in sys.path for path in Path(place).glob("*.dist-info"))
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpus": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
        "packages": dict(sorted(folder.stem.split("-", 1) for folder in folders)),
    }
