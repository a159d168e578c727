"""A command's process: quiet from its first moment, and gone soon after its last."""

# Until `command` catches Ctrl-C, it ends in a traceback of Python's: no import here that can wait.
import atexit
import gc
import os
import sys

from descent.cli.quiet_exit import QuietExit

TYPE_CHECKING = False  # typing has the same, and takes longer to import than all the rest
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


def command(job: "Callable[..., Any]", name: str, fields: tuple[str, ...] = ()) -> None:
    """Run a job on the config that `conf/<name>.yaml` and the command line give.

    Bad input ends the process with one line and exit code 2, or with its traceback if HYDRA_FULL_ERROR=1.
    An error that is not about input always keeps its traceback.

    Args:
        job: takes the config, for "train" also a `descent.run.folder.Run`; a sweep optimises what it returns.
        name: of the command.
        fields: of a command whose first field is the list of all words that set no other, such as paths.
    """
    quiet_exit = QuietExit()
    quiet_exit.catch()
    gc.disable()  # imports would make it search several times, and find nothing
    from functools import partial

    from descent.cli.load import Load
    from descent.cli.terminal import survive_without_terminal

    load = Load()
    survive_without_terminal()
    from descent.cli.line import carry_out  # takes long enough to see what else the machine does

    os.environ.setdefault("GOMP_SPINCOUNT", load.choose_spin())  # torch reads it when it is loaded
    carry_out(job, name, fields, quiet_exit, partial(start, job, name))


def start(job: "Callable[..., Any]", name: str, words: list[str]) -> None:
    """Do what a command line with these words does, in a process that a sweep has made for it."""
    sys.argv[1:] = words
    command(job, name)


def end() -> None:
    """End the process after a command that went well, a second sooner than Python takes to unload modules.

    Libraries still do what they registered for the end. If a thread is still working, Python waits for it
    and ends as it always does.
    """
    if "torch" not in sys.modules:  # then there is little to unload
        return
    import threading

    others = (thread for thread in threading.enumerate() if thread is not threading.main_thread())
    if all(thread.daemon for thread in others):
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)
