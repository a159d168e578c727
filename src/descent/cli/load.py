"""How busy other programs keep the machine, and how torch's threads are to wait for each other then."""

import os
import time
from pathlib import Path

SPIN = 30_000  # turns of a waiting thread, a fraction of a millisecond, before it sleeps
BUSY = 0.4  # of the machine's cores at work for others, from which on threads sleep at once


class Load:
    """The work of other programs, from the moment that this is made.

    Args:
        statistics: Linux's file of what the cores did; where there is none, others count as idle.
    """

    def __init__(self, statistics: Path = Path("/proc/stat")) -> None:
        self.statistics = statistics
        self.begun, self.before = time.monotonic(), self._count()

    def _count(self) -> float:
        """Return the seconds of work that all cores have done for others; 0 where that is not known."""
        try:
            fields = self.statistics.read_text().partition("\n")[0].split()[1:9]
            user, nice, system, _, _, *interrupts = map(int, fields)  # idle and waiting are left out
        except (OSError, ValueError):
            return 0.0
        own = time.process_time()
        return sum((user, nice, system, *interrupts)) / os.sysconf("SC_CLK_TCK") - own

    def choose_spin(self) -> str:
        """Return for how many turns a waiting thread spins before it sleeps, as libgomp reads it.

        To wake a thread that sleeps takes longer than most of what it has to do. But where others want the
        cores, a thread that spins keeps the one that it waits for from running. Numbers do not depend on it.
        """
        others = (self._count() - self.before) / max(time.monotonic() - self.begun, 1e-3)
        return "0" if others > BUSY * (os.cpu_count() or 1) else str(SPIN)
