"""What the machine offers: threads, a compiler, a quiet console, and a record of it all."""

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
from torch import nn

from descent.errors import first_line, require, require_one_of

CPUS = torch.get_num_threads()  # before any run of a sweep changes it
NUMBERS_A_THREAD = 65_536  # of a batch, for a thread to cost little on a machine that is busy with others


def set_threads(setting: int | str, data: Any) -> None:
    """Set torch's CPU threads: the setting, or for "auto" as many as a batch has work for, at most its own.

    Threads that share a step of a few milliseconds stall whenever another program takes one of the cores:
    steps then took 6 to 50 times as long (docs/performance.md). The rule knows sizes alone and does not try
    what is faster, because the number of threads changes the order of sums, and so the weights.
    """
    if setting == "auto":
        threads, shape = CPUS, getattr(data, "sizes", {}).get("input_shape")
        if shape:
            threads = max(1, min(CPUS, getattr(data, "batch_size", 1) * prod(shape) // NUMBERS_A_THREAD))
    else:
        threads, most = int(setting), max(64, os.cpu_count() or 1)  # starting far more would end the process
        require(1 <= threads <= most, "threads", setting, f"auto, or a whole number from 1 to {most}")
        os.environ["OMP_NUM_THREADS"] = str(setting)  # else Lightning chooses for each of several processes
    torch.set_num_threads(threads)


def choose_device(setting: str) -> str:
    """Return what to compute on without a Trainer: the setting, or for "auto" a GPU if there is one."""
    there = [n for n, m in (("cuda", torch.cuda), ("mps", torch.backends.mps)) if m.is_available()] + ["cpu"]
    if setting == "auto":
        return there[0]
    require_one_of(there, "device", setting, f"what this machine has: {', '.join(there)}, or auto")
    return setting


def quiet_libraries() -> None:
    """Keep what no user can act on out of a run's output, such as remarks on Lightning's own code."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # says that a process was killed while starting, before it ends the others
    logging.getLogger("lightning.fabric.strategies.launchers.subprocess_script").setLevel(logging.INFO)
    logging.getLogger("lightning.pytorch.profilers").setLevel(logging.INFO)  # what was asked for
    # compile=true on a machine with CUDA's toolkit and no GPU
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    for message in (
        "torch.jit.trace.*deprecated",  # by the graph, torch 2.15
        "LeafSpec",  # Lightning 2.6.6 on torch 2.12 and later
        "smaller than the logging interval",  # nothing is logged by step
        "exists and is not empty",  # a resumed run's folder
        "Be aware that when using `ckpt_path`",  # and monitor=, which begins anew with the best weights
        "ended before the epoch ended",  # the loaders begin where they are told to
        "recommended to use .self.log.*sync_dist=True",  # what is logged is of all processes already
        "will save all targets and predictions",  # a metric that was chosen
        "does not have many workers",  # of a loader of one's own: the samples may be in memory
        "array is not writable",  # a file that is mapped into memory, which nothing writes to
    ):
        warnings.filterwarnings("ignore", message=f"(?s).*{message}")


def compile_in_place(model: nn.Module, device: torch.device) -> None:
    """Compile a model, which leaves the names of its weights alone; without a compiler a line says so."""
    try:
        torch.compile(lambda x: x + 1)(torch.zeros(8, device=device))  # needs all that the model will need
    except Exception as error:  # torch raises a type of its own for each back end
        print(f"compile=true: no working compiler here, so the model runs as it is ({first_line(error)})")
        torch.compiler.reset()
    else:
        model.compile()


def describe_environment() -> dict[str, Any]:
    """Return the machine and every installed package, enough to set the same up again."""
    # the names of the folders say it, and reading what is in them would take a tenth of a second
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
