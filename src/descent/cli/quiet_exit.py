"""Ctrl-C, SIGTERM and SIGHUP end a command quietly."""

# Until `command` catches Ctrl-C, it ends in a traceback of Python's: no import here that can wait.
import os

TYPE_CHECKING = False  # typing has the same, and takes longer to import than all the rest
if TYPE_CHECKING:
    import signal
    from collections.abc import Callable
    from types import FrameType
    from typing import NoReturn
else:
    import _signal as signal  # the C half of Python's signal; the other half is enums, which take 2 ms


class QuietExit:
    """Has Ctrl-C, SIGTERM and SIGHUP end the process without a traceback, with exit code 130, 143 or 129.

    While a run trains, its callbacks take over, and end it between two steps.
    """

    def __init__(self) -> None:
        self.received = 0  # number of the signal
        self.clean_up: Callable[[int], object] | None = None  # is called with the exit code

    def catch(self) -> None:
        """Take over the signals that have their usual effect; under nohup some are ignored and stay so."""
        for name in ("SIGINT", "SIGTERM", "SIGHUP"):
            number = getattr(signal, name, None)  # Windows has no SIGHUP
            if number and signal.getsignal(number) in (signal.default_int_handler, signal.SIG_DFL):
                signal.signal(number, self.leave)

    def leave(self, number: int, frame: "FrameType | None") -> "NoReturn":
        """Clean up, if there may be something to clean up, and end the process.

        It is no exception that ends it, as far as that can be: one in the middle of an import can abort
        Python, and one in the middle of a library's lock, such as that of TensorBoard's thread, can leave
        it waiting for ever.
        """
        self.received = number
        if self.clean_up is not None:
            self.clean_up(128 + number)
        os._exit(128 + number)
