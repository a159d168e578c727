"""Signals that ask a run to end: the first is remembered, the second ends the process at once."""

import os
import signal
import subprocess
import threading
from contextlib import suppress
from types import FrameType
from typing import Any

# Ctrl-C, kill, and a terminal that is closed, which Windows has no signal for
ENDING = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


class Signals:
    """Catches the signals that ask a run to end, so that it can do so between two steps.

    Lightning raises KeyboardInterrupt wherever it stands, or saves inside the handler, neither of which
    can be resumed exactly.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self.process = os.getpid()
        self.before: dict[int, Any] = {}

    def catch(self) -> None:
        """Take over the handlers, those of Lightning included; what is ignored, as under nohup, stays so."""
        if threading.current_thread() is not threading.main_thread():
            return  # only the main thread may
        for number in [*ENDING, *([signal.SIGUSR1] if in_slurm() else [])]:  # sbatch --signal=USR1@90
            if signal.getsignal(number) != signal.SIG_IGN:
                self.before[number] = signal.signal(number, self._handle)

    def release(self) -> None:
        """Put back the handlers that were there."""
        for number, handler in self.before.items():
            signal.signal(number, handler)
        self.before = {}

    def asks_to_requeue(self) -> bool:
        """Whether what came is SLURM's warning that the job's time is up."""
        return self.received is not None and signal.Signals(self.received).name == "SIGUSR1"

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self.process:
            return  # a worker of the data: the run will end it
        if self.received is not None:
            os._exit(128 + number)
        self.received = number
        # not print: the signal may have come in the middle of one
        again = "; once more to stop at once" if number == signal.SIGINT else ""
        text = f"\n{signal.Signals(number).name}: finishing the step and saving{again}\n"
        with suppress(OSError):  # the terminal may be gone
            os.write(2, text.encode())


def in_slurm() -> bool:
    """Whether this process is a job of SLURM."""
    return "SLURM_JOB_ID" in os.environ


def requeue() -> str:
    """Ask SLURM to run this job again; returns what came of it, to be told."""
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    job = f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}" if array else os.environ["SLURM_JOB_ID"]
    try:
        subprocess.run(["scontrol", "requeue", job], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        return f"SLURM could not requeue job {job} ({error})"
    return f"SLURM runs job {job} again"
