"""Runs a command: compose and check its config, claim a folder, then call `train` or another job."""

import atexit
import gc
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from descent.errors import ConfigError, Stopped, clean, require

OF_HYDRA = ("--hydra-help", "--info", "--shell-completion")
FLAGS = ("--help", "--version", "--cfg", "--multirun", "--config-dir", *OF_HYDRA)
SHORT = {
    "-h": "--help",
    "-c": "--cfg",
    "-m": "--multirun",
    "-cd": "--config-dir",
    "-sc": "--shell-completion",
}
OF_SWEEPS = ("experiment=", "resume=", "jobs=", "trials=", "search", "executor")  # how their words begin


def main(job: Callable[..., Any], name: str) -> None:
    """Execute the command line of `conf/<name>.yaml` with a job, and end the process.

    Bad input ends it with one line and exit code 2, or with a traceback if HYDRA_FULL_ERROR=1. Any other
    error always keeps its traceback.
    """
    if signal.getsignal(signal.SIGINT) == signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # end quietly while there is nothing to save
    gc.disable()  # imports would trigger it several times, to collect nothing
    sys.stdout = sys.stdout or Path(os.devnull).open("w")  # noqa: SIM115 (`>&-`)
    sys.stderr = sys.stderr or Path(os.devnull).open("w")  # noqa: SIM115 (`2>&-`)
    for stream in (sys.stdout, sys.stderr):
        hang_up_without_reader(stream)
    threading.excepthook = print_thread_error
    typed: dict[str, str] = {}
    try:
        with report(typed):
            code = run_line(job, name, sys.argv[1:], typed)
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    end(code)


def run_line(job: Callable[..., Any], name: str, arguments: Sequence[str], typed: dict[str, str]) -> int:
    """Execute a command line, and return the exit code; fills `typed` with its values, by key."""
    flags, words = split(arguments)
    try:
        from descent.cli.overrides import by_key, quote, quote_word
    except ModuleNotFoundError as error:
        way = "in the project's environment, such as by `uv run python src/train.py`"
        raise ConfigError(f"python {sys.argv[0]}", expected=f"to be run {way} ({error})") from error
    if flags.keys() & {"--help", "--version", *OF_HYDRA} or flags.get("--cfg", "job") != "job":
        from descent.cli.help import inform

        inform(name, flags, arguments)
        return 0
    many, sweeps = "--multirun" in flags, name == "train" and find_spec("descent.cli.sweeping") is not None
    if many and not sweeps:
        raise ConfigError("--multirun", expected="src/train.py, and the room sweep (docs/rooms.md)")
    if name == "compare":
        from descent.cli.commands import gather

        words = gather(words)
    several = many or any(word.startswith("experiment=") for word in words)
    raw, words = words, [quote_word(word, several) for word in words]
    typed.update(by_key(raw))
    if place := flags.get("--config-dir"):
        words.append(f"hydra.searchpath=[{quote(f'file://{Path(place).resolve()}')}]")
    if "--cfg" in flags:
        from descent.cli.help import print_config

        print_config(name, words)
        return 0
    if sweeps and (many or any(word.startswith(OF_SWEEPS) for word in words)):
        from descent.cli.sweeping import plan_sweep, run_sweep

        if (sweep := plan_sweep(words, many)) is not None:
            watch_for_garbage()
            return run_sweep(sweep)
    if name == "train":
        from descent.cli.runs import start

        start(job, words)
    else:
        from descent.cli.commands import run_command

        run_command(job, name, words)
    return 0


def split(arguments: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Return flags by their long names, each with its value, and overrides; they may come in any order."""
    flags: dict[str, str] = {}
    words: list[str] = []
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        if not word.startswith("-"):
            words.append(word)
            continue
        flag, equals, value = word.partition("=")
        flag = SHORT.get(flag, flag)
        if flag not in FLAGS:
            expected = f"key=value, or one of {', '.join(FLAGS)}"
            raise ConfigError(word, expected=expected, choices=FLAGS, meant=flag)
        takes_next = flag in ("--cfg", "--config-dir") and not equals and rest
        flags[flag] = rest.pop(0) if takes_next else value
    cfg, place = flags.get("--cfg", "job"), flags.get("--config-dir", ".")
    require(cfg in ("job", "hydra", "all"), "--cfg", cfg, "one of job, hydra, all")
    require(place != "" and Path(place).is_dir(), "--config-dir", place, "a folder")
    return flags, words


# ---- how a process ends ------------------------------------------------------------------------------------


@contextmanager
def report(typed: Mapping[str, str]) -> Iterator[None]:
    """End the process with one line about bad input; `typed` are values for errors that name none."""
    try:
        yield
    except KeyboardInterrupt:
        sys.exit(130)
    except Stopped as error:
        if str(error):  # among several processes, only one has a message
            print(clean(str(error)), file=sys.stderr)
        sys.exit(error.code)
    except ConfigError as error:
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        if os.environ.get("LOCAL_RANK", "0") == "0":  # a run's other processes fail for the same reason
            print(clean(error.line(typed).replace("\n", " ")), file=sys.stderr)
        sys.exit(2)


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
