"""Runs a command: compose and check its config, claim a folder, then call `train` or another job."""

import atexit
import gc
import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from descent.errors import ConfigError, Stopped, clean, require

SHORT = {"-h": "--help", "-c": "--cfg", "-m": "--multirun", "-cd": "--config-dir"}
FLAGS = (*SHORT.values(), "--version", "--hydra-help", "--info", "--shell-completion", "-sc")
OF_SWEEPS = ("experiment=", "resume=", "jobs=", "trials=", "search", "executor")  # how their words begin


def main(job: Callable[..., Any], name: str) -> None:
    """Execute the command line of `conf/<name>.yaml` with a job, and end the process."""
    if signal.getsignal(signal.SIGINT) == signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # end quietly while there is nothing to save
    gc.disable()  # imports would trigger it several times, to collect nothing
    sys.stdout = sys.stdout or Path(os.devnull).open("w")  # noqa: SIM115 (`>&-`)
    sys.stderr = sys.stderr or Path(os.devnull).open("w")  # noqa: SIM115 (`2>&-`)
    hang_up_without_reader(sys.stdout)
    hang_up_without_reader(sys.stderr)
    threading.excepthook = print_thread_error
    typed: dict[str, str] = {}
    end(attempt(lambda: run_line(job, name, sys.argv[1:], typed), typed))


def run_line(job: Callable[..., Any], name: str, arguments: Sequence[str], typed: dict[str, str]) -> None:
    """Execute a command line; fills `typed` with its values, by key."""
    flags, words = split(arguments)
    try:
        from descent.cli.overrides import by_key, quote_words
    except ModuleNotFoundError as error:
        way = "in the project's environment, such as by `uv run python src/train.py`"
        raise ConfigError(f"python {sys.argv[0]}", expected=f"to be run {way} ({error})") from error
    many, sweeps = "--multirun" in flags, name == "train" and find_spec("descent.cli.sweeping") is not None
    if many and not sweeps:
        raise ConfigError("--multirun", expected="src/train.py, and the room sweep (docs/rooms.md)")
    if name == "compare":
        from descent.cli.commands import gather

        words = gather(words)
    typed.update(by_key(words))
    if flags.keys() - {"--multirun", "--config-dir"}:
        from descent.cli.help import inform

        inform(name, flags, words, arguments)
        return
    words = quote_words(words, flags)
    if sweeps and (many or any(word.startswith(OF_SWEEPS) for word in words)):
        from descent.cli.sweeping import plan_sweep, run_sweep

        if (sweep := plan_sweep(words, many)) is not None:
            watch_for_garbage()
            sys.exit(run_sweep(sweep))
    if name == "train":
        from descent.cli.runs import start

        start(job, words)
    else:
        from descent.cli.commands import run_command

        run_command(job, name, words)


def split(arguments: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Return flags by their long names, each with its value, and overrides; they may come in any order."""
    flags: dict[str, str] = {}
    words: list[str] = []
    rest = iter(arguments)
    for word in rest:
        flag, _, value = word.partition("=")
        flag = SHORT.get(flag, flag)
        if not word.startswith("-"):
            words.append(word)
        elif flag in FLAGS:
            flags[flag] = next(rest, "") if flag in ("--cfg", "--config-dir") and not value else value
        else:
            expected = f"key=value, or one of {', '.join(FLAGS)}"
            raise ConfigError(word, expected=expected, choices=FLAGS, meant=flag)
    cfg, place = flags.get("--cfg", "job"), flags.get("--config-dir", ".")
    require(cfg in ("job", "hydra", "all"), "--cfg", cfg, "one of job, hydra, all")
    require(place != "" and Path(place).is_dir(), "--config-dir", place, "a folder")
    return flags, words


# ---- how a process ends ------------------------------------------------------------------------------------


def attempt(call: Callable[[], Any], typed: Mapping[str, str]) -> int:
    """Call a function, and return the exit code; bad input becomes one line on stderr.

    `typed` are values for errors that name none. With HYDRA_FULL_ERROR=1 bad input keeps its traceback; any
    other error always does.
    """
    try:
        call()
        return 0
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else 1
    except KeyboardInterrupt:
        return 130
    except Stopped as error:
        line, code = str(error), error.code  # among several processes, only one has a message
    except ConfigError as error:
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        first = os.environ.get("LOCAL_RANK", "0") == "0"  # a run's other processes fail for the same reason
        line, code = error.line(typed).replace("\n", " ") if first else "", 2
    if line:
        print(clean(line), file=sys.stderr)
    return code


def hang_up_without_reader(stream: Any) -> None:
    """Treat a stream whose reader is gone, as with `| head -1`, like a closed terminal."""
    write = stream.write

    def write_or_hang_up(text: str) -> None:
        try:
            write(text)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
            signal.raise_signal(getattr(signal, "SIGHUP", signal.SIGTERM))

    stream.reconfigure(errors="replace", line_buffering=True)  # a write fails at once
    stream.write = write_or_hang_up


def print_thread_error(ended: threading.ExceptHookArgs) -> None:
    """Print a thread's traceback, except for a full disk, which the main thread reports too."""
    if not isinstance(ended.exc_value, OSError):
        threading.__excepthook__(ended)


def watch_for_garbage() -> None:
    """Collect garbage from now on, but ignore the objects that already exist."""
    gc.freeze()
    gc.enable()
    atexit.register(gc.unfreeze)  # otherwise some libraries complain at the end


def end(code: int) -> None:
    """End the process after libraries' exit handlers, without the second that unloading modules takes."""
    threads = [t for t in threading.enumerate() if not t.daemon and t is not threading.main_thread()]
    if threads and code == 0:
        sys.exit()  # once they have ended
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
