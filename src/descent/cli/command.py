"""A command, from its words to its job: expand, compose, resume, check, claim, and then the job."""

import atexit
import errno
import gc
import os
import signal
import sys
import threading
import types
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, NoReturn

from descent.cli.terminal import survive_without_terminal


def command(job: Callable[..., Any], name: str) -> None:
    """Run a job on the config that `conf/<name>.yaml` and the command line give.

    Bad input ends the process with one line and exit code 2, or with its traceback if HYDRA_FULL_ERROR=1.
    An error that is not about input always keeps its traceback.

    Args:
        job: takes the config, for "train" also a `descent.run.folder.Run`; a sweep optimises what it returns.
        name: of the command.
    """
    # torch reads this when it is loaded: threads that wait for each other spin for a moment and then sleep
    os.environ.setdefault("GOMP_SPINCOUNT", "30000")
    gc.disable()  # imports would make it search several times, and find nothing
    quiet_exit = QuietExit()
    quiet_exit.catch()
    survive_without_terminal()
    threading.excepthook = print_thread_error
    # imported here, so that Ctrl-C is quiet while they are loaded
    from descent.cli.compose import compose_and_call
    from descent.cli.job import run_job
    from descent.cli.resolvers import print_help, register_resolvers
    from descent.cli.resuming import expand
    from descent.cli.sweeping import plan_sweep, run_sweep
    from descent.cli.words import by_key, quote_values, split
    from descent.errors import ConfigError
    from descent.run.folder import give_up

    register_resolvers()
    typed: dict[str, str] = {}
    with tell(typed, quiet_exit):
        line = split(sys.argv[1:])
        if line.flags["--help"]:
            print_help(name)
            return
        words = quote_values(line)
        typed.update(by_key(words))
        if name != "train" and (line.flags["--multirun"] or "hydra.mode" in typed):
            raise ConfigError("--multirun", expected="src/train.py, which alone has sweeps")
        if name == "train" and (sweep := plan_sweep(line, words)) is not None:
            quiet_exit.cleans_up = True
            watch_for_garbage()
            sys.exit(run_sweep(sweep, partial(start, job, name), sys.argv[0]) > 0)  # runs that failed
        expanded = expand(words) if name == "train" else words
        sys.argv[1:] = line.arguments(expanded)  # for the processes that a run starts

        def call(config: Any) -> Any:
            overrides: dict[str, str] = {}
            with tell(overrides, quiet_exit):
                return run_job(begin, name, config, overrides, typed)

        def begin(*arguments: Any) -> Any:
            quiet_exit.cleans_up = True
            if name == "train":
                quiet_exit.clean_up = partial(give_up, arguments[1].folder)
            watch_for_garbage()
            return job(*arguments)

        compose_and_call(call, name, expanded)


def start(job: Callable[..., Any], name: str, words: list[str]) -> None:
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
    others = (thread for thread in threading.enumerate() if thread is not threading.main_thread())
    if all(thread.daemon for thread in others):
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


def watch_for_garbage() -> None:
    """Collect garbage from now on, but never among the objects that are there by now."""
    gc.freeze()
    gc.enable()
    atexit.register(gc.unfreeze)  # otherwise some libraries complain at the end


def print_thread_error(ended: threading.ExceptHookArgs) -> None:
    """Print a thread's traceback, but not for a full disk: the main thread tells of that as well."""
    if not isinstance(ended.exc_value, OSError):
        threading.__excepthook__(ended)


@contextmanager
def tell(overrides: Mapping[str, str], quiet_exit: "QuietExit") -> Iterator[None]:
    """End the process with one line about bad input, or with the traceback of anything else.

    Args:
        overrides: what the command line sets, by key, for errors that do not name a value.
        quiet_exit: knows whether a signal came, which ends the process whatever a library made of it.
    """
    import traceback

    from descent.errors import ConfigError, Stopped

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
            print(error.line(overrides).replace("\n", " "), file=sys.stderr)
            sys.exit(2)
        traceback.print_exc()  # not raised, because Hydra would add its own lines
        sys.exit(1)


class QuietExit:
    """Has Ctrl-C, SIGTERM and SIGHUP end the process without a traceback, with exit code 130, 143 or 129.

    While a run trains, its callbacks take over, and end it between two steps.
    """

    def __init__(self) -> None:
        self.received = 0  # number of the signal
        self.cleans_up = False  # whether there may be something to clean up, such as a file that is not whole
        self.clean_up: Callable[[], None] | None = None  # of a run that has its folder

    def catch(self) -> None:
        """Take over the signals that have their usual effect; under nohup some are ignored and stay so."""
        for name in ("SIGINT", "SIGTERM", "SIGHUP"):
            number = getattr(signal, name, None)  # Windows has no SIGHUP
            if number and signal.getsignal(number) in (signal.default_int_handler, signal.SIG_DFL):
                signal.signal(number, self.leave)

    def leave(self, number: int, frame: types.FrameType | None) -> NoReturn:
        """End the process, by an exception only if the code that is interrupted has to clean up.

        An exception in the middle of an import can abort Python, and one in the middle of a library's lock,
        such as that of TensorBoard's thread, can leave it waiting for ever.
        """
        self.received = number
        if self.cleans_up and self.clean_up is None:
            sys.exit(128 + number)
        if self.clean_up is not None:
            self.clean_up()
        os._exit(128 + number)
