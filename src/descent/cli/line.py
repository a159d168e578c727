"""A command line, from its words to its job: expand, compose, resume, check, claim, and then the job."""

import atexit
import gc
import sys
import threading
from collections.abc import Callable
from typing import Any

from descent.cli.compose import compose_and_call
from descent.cli.failure import print_thread_error, tell
from descent.cli.job import run_job
from descent.cli.quiet_exit import QuietExit
from descent.cli.resolvers import print_help, register_resolvers
from descent.cli.resuming import expand
from descent.cli.sweeping import plan_sweep, run_sweep
from descent.cli.words import by_key, gather_values, quote_values, split
from descent.errors import ConfigError
from descent.run.folder import give_up


def carry_out(
    job: Callable[..., Any],
    name: str,
    fields: tuple[str, ...],
    quiet_exit: QuietExit,
    start: Callable[[list[str]], None],
) -> None:
    """Carry out the command line of this process, as `command` says.

    Args:
        job: what the command does.
        name: of the command.
        fields: of a command whose first field is a list.
        quiet_exit: is told what there is to clean up.
        start: does, in a process that a sweep has made for it, what other words say.
    """
    threading.excepthook = print_thread_error
    register_resolvers()
    typed: dict[str, str] = {}
    with tell(typed, quiet_exit):
        line = split(gather_values(sys.argv[1:], fields) if fields else sys.argv[1:])
        if line.flags["--help"]:
            print_help(name)
            return
        words = quote_values(line)
        typed.update(by_key(words))
        if name != "train" and (line.flags["--multirun"] or "hydra.mode" in typed):
            raise ConfigError("--multirun", expected="src/train.py, which alone has sweeps")
        if name == "train" and (sweep := plan_sweep(line, words)) is not None:
            quiet_exit.clean_up = sys.exit
            watch_for_garbage()
            sys.exit(run_sweep(sweep, start, sys.argv[0]) > 0)  # runs that failed
        expanded = expand(words) if name == "train" else words
        alone = ["hydra.mode=RUN"] if expanded is not words else []  # a recipe's words may ask for its sweep
        sys.argv[1:] = line.arguments([*expanded, *alone])  # also for the processes that a run starts

        def call(config: Any) -> Any:
            overrides: dict[str, str] = {}
            with tell(overrides, quiet_exit):
                return run_job(begin, name, config, overrides, typed)

        def begin(*arguments: Any) -> Any:
            quiet_exit.clean_up = sys.exit
            if name == "train":
                quiet_exit.clean_up = lambda code: give_up(arguments[1].folder)
            watch_for_garbage()
            return job(*arguments)

        compose_and_call(call, name, expanded)


def watch_for_garbage() -> None:
    """Collect garbage from now on, but never among the objects that are there by now."""
    gc.freeze()
    gc.enable()
    atexit.register(gc.unfreeze)  # otherwise some libraries complain at the end
