"""What a command says when it fails: one line about bad input, a traceback of anything else."""

import errno
import os
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from descent.cli.quiet_exit import QuietExit
from descent.errors import ConfigError, Stopped

PATIENCE = 5.0  # seconds that another process of a run waits for the first one to say what is wrong
PARENT = os.getppid()  # the first process, in those that it has started


@contextmanager
def tell(overrides: Mapping[str, str], quiet_exit: QuietExit) -> Iterator[None]:
    """End the process with one line about bad input, or with the traceback of anything else.

    Args:
        overrides: what the command line sets, by key, for errors that do not name a value.
        quiet_exit: knows whether a signal came, which ends the process whatever a library made of it.
    """
    try:
        yield
    except Exception as error:
        if quiet_exit.received:
            sys.exit(128 + quiet_exit.received)
        if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
            error = ConfigError(str(error.filename), expected="a shorter name")
        if isinstance(error, Stopped):
            if str(error):  # of several processes, only one has a message
                print(error, file=sys.stderr)
            sys.exit(error.code)
        if isinstance(error, ConfigError) and os.environ.get("HYDRA_FULL_ERROR") != "1":
            if not is_told_by_first():
                print(error.line(overrides).replace("\n", " "), file=sys.stderr)
            sys.exit(2)
        traceback.print_exc()  # not raised, because Hydra would add its own lines
        sys.exit(1)


def is_told_by_first() -> bool:
    """Whether the first process of a run has started this one, and ended soon, for the same reason."""
    if os.environ.get("LOCAL_RANK", "0") == "0":
        return False
    until = time.monotonic() + PATIENCE
    while os.getppid() == PARENT and time.monotonic() < until:
        time.sleep(0.05)
    return os.getppid() != PARENT


def print_thread_error(ended: threading.ExceptHookArgs) -> None:
    """Print a thread's traceback, but not for a full disk: the main thread tells of that as well."""
    if not isinstance(ended.exc_value, OSError):
        threading.__excepthook__(ended)
