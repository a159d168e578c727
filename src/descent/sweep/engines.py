"""Where the runs of a sweep compute.

An engine has `places`, how many runs fit, and `submit`, which returns a future; one of your own is such a
class, named by a file in conf/executor. What it runs is `run_apart`, on any machine that sees the sweep's
folder. Processes of this machine start warm instead.
"""

import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

from descent.errors import ConfigError
from descent.run.signals import ENDING
from descent.sweep.plan import Point

POLL = 0.25  # seconds between a run's checks on whether it should end


def run_apart(point: Point, command: Sequence[str], place: str) -> int:
    """Run a point by its own command in the folder `place`, on any machine, and return its exit code."""
    with point.claim():
        if point.is_over() or (stopped := point.look()):
            return 0 if point.is_over() else 128 + signal.SIGTERM
        with point.find_log().open("ab") as log:
            line = [*command, *point.line()]
            process = subprocess.Popen(line, stdout=log, stderr=log, cwd=place)
        while process.poll() is None:
            time.sleep(POLL)
            if point.look() and not stopped:
                stopped = True
                process.terminate()  # which saves
        return point.leave(process.returncode)


def run_warm(point: Point, call: Callable[[list[str]], int], visible: str, threads: int) -> None:
    """In a new process, run a point until it ends, is asked to end, or the sweep's process is gone."""
    import torch

    def follow() -> None:
        while os.getppid() == parent and not point.look():
            time.sleep(POLL)
        os.kill(os.getpid(), signal.SIGTERM)  # which saves

    parent = os.getppid()
    if hasattr(os, "setsid"):
        os.setsid()  # Linux divides its cores among sessions first, and Ctrl-C reaches only the sweep
    for number in ENDING:
        signal.signal(number, signal.SIG_DFL)
    os.environ.update({"CUDA_VISIBLE_DEVICES": visible} if visible else {})
    torch.set_num_threads(threads)
    with point.claim():
        log = os.open(point.find_log(), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        threading.Thread(target=follow, daemon=True).start()
        code = 0 if point.is_over() else point.leave(call(point.line()))
    sys.exit(code)


class Local:
    """Processes on this machine, forked with everything imported or spawned; each GPU has one run.

    `call` runs a command line and returns its exit code; `config` is that of one of the runs.
    """

    def __init__(self, call: Callable[[list[str]], int], config: Mapping[str, Any]) -> None:
        import torch

        trainer, devices = config["trainer"], torch.cuda.device_count()  # does not initialise CUDA
        names = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(devices)))
        on_gpu = devices and trainer.get("accelerator") in ("auto", "gpu", "cuda")
        self.gpus, count = names.split(",") if on_gpu else [], trainer.get("devices")
        self.processes = count if isinstance(count, int) and count > 0 else 1  # per run
        forks = sys.platform == "linux" and not torch.cuda.is_initialized()
        self.context: Any = multiprocessing.get_context("fork" if forks else "spawn")
        self.call, self.threads, self.jobs = call, torch.get_num_threads(), list[Any]()
        torch.set_num_threads(1)  # a forked process could wait for other threads forever
        gc.freeze()  # imported objects stay in pages that all processes share

    def places(self, threads: int | None) -> int:
        """Return how many runs fit; one, while the number of threads per run is unknown."""
        if self.gpus:
            return max(1, len(self.gpus) // self.processes)
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return max(1, cores // (threads * self.processes)) if threads else 1

    def submit(self, run: Callable[..., int], point: Point, *apart: Any) -> Any:
        """Start a run, which only the sweep's stop file ends."""
        taken = [gpu for job in self.jobs if not job.done() for gpu in job.gpus]
        gpus = sorted(self.gpus, key=taken.count)[: self.processes]
        process = self.context.Process(target=run_warm, args=(point, self.call, ",".join(gpus), self.threads))
        process.start()
        done, result = lambda: process.exitcode is not None, lambda: process.exitcode
        self.jobs.append(SimpleNamespace(gpus=gpus, cancel=lambda: False, done=done, result=result))
        return self.jobs[-1]


class Slurm:
    """SLURM jobs, by submitit; conf/executor/slurm.yaml explains the settings."""

    def __init__(
        self, folder: Path, cluster: str, jobs: int, partition: str | None, gpus: int | None,
        cpus: int | None, minutes: int | None, more: dict[str, Any],
    ) -> None:  # fmt: skip
        place = folder / ".slurm" / uuid4().hex  # unpredictable, because submitit reads pickles there
        engine = load("submitit", "slurm").AutoExecutor(place, cluster=cluster)
        named = {"slurm_partition": partition, "gpus_per_node": gpus, "cpus_per_task": cpus}
        settings = {"name": "sweep", "timeout_min": minutes, **named, **more}
        engine.update_parameters(**{k: v for k, v in settings.items() if v is not None})
        self.jobs, self.submit = jobs, engine.submit  # returns a job that can be polled like a future

    def places(self, threads: int | None) -> int:
        """Return how many jobs may be in the queue."""
        return self.jobs


class Ray:
    """Tasks of a Ray cluster; conf/executor/ray.yaml explains the settings."""

    def __init__(self, address: str | None, cpus: float, gpus: float) -> None:
        self.ray, self.share = load("ray", "ray"), {"CPU": cpus, "GPU": gpus}
        self.ray.init(address or "local", log_to_driver=False, logging_level="ERROR")

    def places(self, threads: int | None) -> int:
        """Return how many runs the cluster has room for."""
        room = self.ray.cluster_resources()
        return max(1, min(int(room.get(name, 0) / need) for name, need in self.share.items() if need))

    def submit(self, run: Callable[..., int], *arguments: Any) -> Any:
        """Start a run."""
        remote = self.ray.remote(num_cpus=self.share["CPU"], num_gpus=self.share["GPU"], max_retries=0)(run)
        return remote.remote(*arguments).future()


def load(name: str, extra: str) -> Any:
    """Import what an engine or a search needs, or name the extra that contains it."""
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        key = "search" if extra == "search" else "executor"
        raise ConfigError(key, extra, expected=f"{name} installed: uv sync --extra {extra}") from error
