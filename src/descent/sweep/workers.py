"""Runs at the same time, each in a process of its own that is forked with everything imported.

The process that starts them computes nothing: a child hangs in a matrix product with several threads, and in
polars, where its parent has done one. Each run is a session of its own, for Linux shares its cores among
sessions first. Where there is a GPU, and where nothing can be forked, processes are spawned.
"""

import gc
import multiprocessing
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from pathlib import Path

from descent.run.folder import RunFolder
from descent.run.signals import ENDING, Signals
from descent.sweep.plan import DONE, PRUNED, Point, Source, read_json

POLL = 0.1  # seconds between two looks at what the runs have come to
Call = Callable[[list[str]], None]  # runs one command line, and ends its process where that fails


@dataclass
class Limits:
    """How much may run at the same time.

    Attributes:
        jobs: runs at a time; None for as many as there are cores for, or GPUs.
        cores: of the machine.
        gpus: the names that CUDA knows them by; empty where runs compute on the CPU.
        threads: of a run, where that is known; else what the first run says.
        processes: of a run.
        spawn: start processes anew.
    """

    jobs: int | None
    cores: int
    gpus: Sequence[str]
    threads: int | None
    processes: int
    spawn: bool


@dataclass
class Worker:
    """A run in its process."""

    point: Point
    process: BaseProcess
    gpus: list[str]
    log: Path  # beside the run's folder until there is one
    begun: float = field(default_factory=time.monotonic)
    pruned: bool = False

    def send(self, number: int) -> None:
        """Send the run a signal."""
        if self.process.pid is not None:
            with suppress(OSError):  # it has ended by itself
                os.kill(self.process.pid, number)


class Workers:
    """Runs points until there are no more, or a signal comes.

    Args:
        call: runs one command line, in its new process; picklable where processes are spawned.
        limits: of what runs at the same time.
        tell: is called each time something may have changed.
    """

    def __init__(self, call: Call, limits: Limits, tell: "Callable[[Workers], None]") -> None:
        self.call, self.limits, self.tell = call, limits, tell
        self.context: BaseContext = multiprocessing.get_context("spawn" if limits.spawn else "fork")
        self.alive, self.mine = self.context.Pipe(duplex=False)
        self.signals = Signals()
        self.running: list[Worker] = []
        self.pruned = 0  # runs
        self.failed: dict[Point, int] = {}  # the exit status of each run that failed
        self.seconds: list[float] = []  # that the others took
        self.threads = limits.threads
        self.waiting = 0

    def run(self, source: Source) -> int | None:
        """Run all points, and return the number of the signal that ended it before, if one did."""
        gc.freeze()  # what is imported stays in pages that all processes share
        self.signals.catch()
        told = False
        try:
            while True:
                while not self.signals.received and self._fits() and (point := source.take()) is not None:
                    self._start(point)
                self.waiting = source.left()
                if self.signals.received and not told:
                    told = True
                    for worker in self.running:
                        worker.send(self.signals.received)
                if not self.running:
                    return self.signals.received
                wait([worker.process.sentinel for worker in self.running], timeout=POLL)
                self._look(source)
                self.tell(self)
        finally:
            self.signals.release()
            self.mine.close()
            gc.unfreeze()

    def _fits(self) -> bool:
        """Return whether one run more can have what a run takes."""
        if not self.running:
            return True
        if self.limits.jobs is not None:
            return len(self.running) < self.limits.jobs
        if self.limits.gpus:
            taken = sum(len(worker.gpus) for worker in self.running)
            return taken + self.limits.processes <= len(self.limits.gpus)
        cost = (self.threads or 1) * self.limits.processes
        return (len(self.running) + 1) * cost <= self.limits.cores

    def _start(self, point: Point) -> None:
        taken = [gpu for worker in self.running for gpu in worker.gpus]
        gpus = sorted(self.limits.gpus, key=taken.count)[: self.limits.processes]
        visible = {"CUDA_VISIBLE_DEVICES": ",".join(gpus)} if gpus else {}
        log = prepare_log(point)
        mine = None if self.limits.spawn else self.mine
        words = [*point.words, *resume_words(point)]
        arguments = (self.call, words, log, visible, (self.alive, mine))
        process: BaseProcess = self.context.Process(target=live, args=arguments)  # type: ignore[attr-defined]
        with block_signals():  # until the child has handlers of its own
            process.start()
        self.running.append(Worker(point, process, gpus, log))

    def _look(self, source: Source) -> None:
        """See which runs have ended, and what the others have come to."""
        for worker in list(self.running):
            point, code = worker.point, worker.process.exitcode
            if code is None:
                place_log(worker.log, point)
                self.threads = self.threads or read_threads(point.folder)
                if not worker.pruned and source.is_hopeless(point):
                    worker.pruned = True
                    (point.folder.path / PRUNED).touch()
                    worker.send(signal.SIGTERM)
                continue
            self.running.remove(worker)
            leave(worker.log, point, code)
            source.ended(point)
            if point.state() == "pruned":
                self.pruned += 1
            elif code:
                self.failed[point] = code
            else:
                self.seconds.append(time.monotonic() - worker.begun)


def run_apart(arguments: Sequence[str], point: Point) -> int:
    """Run a point by a command of its own, unless it is over, and return its exit status.

    Args:
        arguments: of the command, without the point's words.
        point: to be run, on this machine or another one that sees its folder.
    """
    if point.is_over():
        return 0
    log = prepare_log(point)
    with log.open("ab") as out:
        words = [*point.words, *resume_words(point)]
        process = subprocess.Popen([*arguments, *words], stdout=out, stderr=subprocess.STDOUT)
        while process.poll() is None:
            with suppress(subprocess.TimeoutExpired):
                process.wait(POLL)
            place_log(log, point)
    return leave(log, point, process.returncode)


def prepare_log(point: Point) -> Path:
    """Return where a run's output goes: to its folder, or beside it until it has made that."""
    if point.state() != "missing":
        return point.folder.log
    log = point.folder.path.with_name(f".{point.name}.log")
    for left_over in (log, point.folder.log, point.folder.path / DONE):
        left_over.unlink(missing_ok=True)
    with suppress(OSError):  # a run that failed before it had a folder has left its output there
        point.folder.path.rmdir()
    return log


def place_log(log: Path, point: Point) -> None:
    """Put what a run prints into its folder, once it has made that."""
    if log != point.folder.log and log.exists() and point.folder.config.exists():
        log.replace(point.folder.log)


def leave(log: Path, point: Point, code: int) -> int:
    """Leave a run's output in its folder, and a mark if it ended as it should; return the exit status."""
    place_log(log, point)
    if log != point.folder.log and log.exists():  # it has ended before it had a folder
        point.folder.path.mkdir(exist_ok=True)
        log.replace(point.folder.log)
    if code == 0:
        (point.folder.path / DONE).touch()
    return code


def resume_words(point: Point) -> list[str]:
    """Return the words that say where a run goes: its folder, which it goes on in if it has begun."""
    path = str(point.folder.path).replace("\\", "\\\\").replace("'", "\\'").replace("${", "\\${")
    return [f"folder='{path}'", *([f"resume='{path}'"] if point.state() == "begun" else [])]


def live(
    call: Call, words: list[str], log: Path, environment: dict[str, str],
    pipe: tuple[Connection, Connection | None],
) -> None:  # fmt: skip
    """In the new process: run a command line, until it ends or its parent does."""
    alive, parents = pipe
    if parents is not None:
        parents.close()  # else this process, or a brother of it, would keep it open
    if hasattr(os, "setsid"):
        os.setsid()
    for number in ENDING:  # does what it does in a new process; those that came meanwhile are let in
        if signal.getsignal(number) != signal.SIG_IGN:
            usual = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
            signal.signal(number, usual)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
    threading.Thread(target=follow, args=(alive,), daemon=True).start()
    os.environ.update(environment)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(descriptor, stream)
    os.close(descriptor)
    call(words)


def follow(alive: Connection) -> None:
    """Wait for the end of the parent, which sends nothing, and have this process save and end as well."""
    with suppress(EOFError, OSError):
        alive.recv_bytes()
    os.kill(os.getpid(), signal.SIGTERM)


@contextmanager
def block_signals() -> Iterator[None]:
    """Hold back signals that end a process, where the system can."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def read_threads(folder: RunFolder) -> int | None:
    """Return how many threads a run computes with, once it says so."""
    threads = read_json(folder.environment).get("threads")
    return threads if isinstance(threads, int) else None
