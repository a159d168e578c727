"""Signals that ask a run to end: the first is remembered, the second ends the process at once."""

import os
import signal
import threading
from contextlib import suppress
from types import FrameType
from typing import Any

# Ctrl-C, kill, and a closed terminal, for which Windows has no signal
ENDING = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


class Signals:
    """Catches the signals that ask a run to end, so that it can do so between two steps.

    Lightning raises KeyboardInterrupt at any point, or saves inside the handler; a run cannot resume
    exactly from either.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self.process = os.getpid()
        self.before: dict[int, Any] = {}

    def catch(self) -> None:
        """Replace the handlers, including Lightning's; ignored signals, as under nohup, stay ignored."""
        if threading.current_thread() is not threading.main_thread():
            return  # only the main thread may set handlers
        warning = [signal.SIGUSR1] if "SLURM_JOB_ID" in os.environ else []  # sbatch --signal=USR1@90
        for number in (*ENDING, *warning):
            if signal.getsignal(number) != signal.SIG_IGN:
                self.before[number] = signal.signal(number, self._handle)

    def release(self) -> None:
        """Restore the previous handlers."""
        for number, handler in self.before.items():
            signal.signal(number, handler)
        self.before = {}

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self.process:
            return  # a data worker: the run will end it
        if self.received is not None:
            os._exit(128 + number)
        self.received = number
        # not `print`, because the signal may have interrupted one
        again = "; once more to stop at once" if number == signal.SIGINT else ""
        text = f"\n{signal.Signals(number).name}: finishing the step and saving{again}\n"
        with suppress(OSError):  # the terminal may be gone
            os.write(2, text.encode())
