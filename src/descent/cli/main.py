"""Runs a command: compose and check its config, claim a folder, then call `train` or another job."""

import atexit
import errno
import gc
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from descent.errors import ConfigError, Stopped, clean, require

OWN = ("--help", "-h", "--version", "--cfg", "-c", "--multirun", "-m", "--config-dir", "-cd")
OF_HYDRA = (
    "--hydra-help", "--info", "-i", "--shell-completion", "-sc", "--resolve", "--package", "-p", "--run",
    "-r", "--config-path", "-cp", "--config-name", "-cn",
)  # fmt: skip
PATIENCE = 5.0  # seconds that a run's other processes wait for the first one to report an error
PARENT = os.getppid()  # the first process, seen from the processes that it started


def main(job: Callable[..., Any], name: str) -> None:
    """Execute the command line, and end the process.

    Bad input ends it with one line and exit code 2, or with a traceback if HYDRA_FULL_ERROR=1. Any other
    error always keeps its traceback.

    Args:
        job: takes the config and, for "train", also a `descent.run.folder.Run`.
        name: the command's name; its config is `conf/<name>.yaml`.
    """
    if signal.getsignal(signal.SIGINT) == signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # end quietly while there is nothing to save
    gc.disable()  # imports would trigger it several times, to collect nothing
    if sys.stdout is None:  # `>&-`
        sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # type: ignore[union-attr]
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
    if unknown := [flag for flag in flags if flag in OF_HYDRA]:
        return run_hydra(name, arguments, unknown[0])
    try:
        from descent.cli.compose import compose
        from descent.cli.overrides import by_key, quote_words
    except ModuleNotFoundError as error:
        way = "in the project's environment, such as by `uv run python src/train.py`"
        raise ConfigError(f"python {sys.argv[0]}", expected=f"to be run {way} ({error})") from error
    if "--help" in flags or "-h" in flags:
        from descent.cli.help import print_help

        print_help(name)
        return 0
    if "--version" in flags:
        from descent import __version__

        print(__version__)
        return 0
    many = "--multirun" in flags or "-m" in flags
    places = [Path(flags[flag]) for flag in ("--config-dir", "-cd") if flag in flags]
    for place in places:
        require(place.is_dir(), "--config-dir", str(place), "a folder")
    if name == "compare":
        words = gather(words)
    if many and name != "train":
        raise ConfigError("--multirun", expected="src/train.py, which alone runs sweeps")
    raw, words = words, quote_words(words, many or any(w.startswith("experiment=") for w in words))
    typed.update(by_key(raw))
    if flag := next((flag for flag in ("--cfg", "-c") if flag in flags), None):
        import yaml

        if flags[flag] != "job":
            return run_hydra(name, arguments, flag)
        composed = compose(name, [word for word in words if not word.startswith("resume=")], places)
        print(yaml.safe_dump(composed.config, sort_keys=False, allow_unicode=True), end="")
        return 0
    if name == "train" and (sweep := find_sweep(words, many, places)) is not None:
        return sweep
    run_words(job, name, words, places)
    return 0


def run_words(job: Callable[..., Any], name: str, words: Sequence[str], places: Sequence[Path] = ()) -> Any:
    """Run one job with overrides, as `quote_words` returns them, and return what it returns."""
    from descent.build import Config
    from descent.cli.check import check
    from descent.cli.compose import compose
    from descent.cli.overrides import by_key

    if name == "train":
        from descent.cli.runs import start

        return start(job, words, places)
    config = compose(name, words, places).config
    check(name, config, by_key(words))
    if "run" in config:
        config["run"] = locate_run(config["run"])
    watch_for_garbage()
    return job(Config(config))


def find_sweep(words: Sequence[str], many: bool, places: Sequence[Path]) -> int | None:
    """Run the sweep that a command line requests, and return its exit code; None for a single run."""
    own = ("experiment=", "resume=", "jobs=", "trials=", "search", "executor")
    if not many and not any(word.startswith(own) for word in words):
        return None
    try:
        from descent.cli.sweeping import plan_sweep, run_sweep
    except ModuleNotFoundError as error:
        if not many or "descent" not in str(error.name):
            return None
        raise ConfigError(
            "--multirun", expected="the room sweep, which this project has taken out"
        ) from error
    from descent.cli.overrides import quote

    folders = [quote(f"file://{place.expanduser().resolve()}") for place in places]
    more = [f"hydra.searchpath=[{','.join(folders)}]"] if folders else []
    sweep = plan_sweep([*words, *more], many)
    if sweep is None:
        return None
    watch_for_garbage()
    return run_sweep(sweep)


def split(arguments: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Return flags, each with its value, and overrides; they may come in any order.

    Raises:
        ConfigError: an unknown flag, or one without its value.
    """
    flags: dict[str, str] = {}
    words: list[str] = []
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        flag, equals, value = word.partition("=")
        if not word.startswith("-"):
            words.append(word)
        elif flag not in (*OWN, *OF_HYDRA):
            known = (*OWN, *OF_HYDRA)
            wrong = ConfigError(word, expected=f"key=value, or one of {', '.join(known)}")
            wrong.nearest = next(iter(get_close_matches(flag, known, 1)), "")
            raise wrong
        elif flag in ("--cfg", "-c", "--config-dir", "-cd") and not equals:
            if not rest:
                expected = "one of job, hydra, all" if flag[-1] == "c" or "cfg" in flag else "a folder"
                raise ConfigError(flag, expected=f"{expected} behind it")
            flags[flag] = rest.pop(0)
        else:
            flags[flag] = value
    for flag in ("--cfg", "-c"):
        if flags.get(flag, "job") not in ("job", "hydra", "all"):
            raise ConfigError(flag, flags[flag], expected="one of job, hydra, all")
    return flags, words


def gather(words: Sequence[str]) -> list[str]:
    """Return overrides in which all words without a key are collected in the list `runs`."""
    from descent.cli.overrides import quote

    runs = [word for word in words if "=" not in word]
    others = [word for word in words if "=" in word]
    return [*([f"runs=[{','.join(map(quote, runs))}]"] if runs else []), *others]


def locate_run(run: str | None) -> str:
    """Return the folder of the run that a command uses; `latest` is the newest one in logs/."""
    from descent.paths import LOGS
    from descent.run.folder import find_runs

    if run not in (None, "latest"):
        return str(run)
    newest = next(iter(find_runs(LOGS)), None)
    if run is None or newest is None:
        there = f"; the newest is {newest}, or run=latest" if newest else ""
        raise ConfigError("run", run, expected=f"the folder of a run, logs/…{there}")
    return str(newest)


def run_hydra(name: str, arguments: Sequence[str], flag: str) -> int:
    """Pass a command line to Hydra itself, such as `--info` or shell completion."""
    import hydra

    from descent.paths import CONF

    if flag in ("--run", "-r", "--resolve") and "--cfg" not in arguments:
        raise ConfigError(flag, expected="nothing of Hydra's: a command without flags is run")
    sys.argv[1:] = arguments
    hydra.main(version_base="1.3", config_path=str(CONF), config_name=name)(lambda config: None)()
    return 0


# ---- how a process ends ------------------------------------------------------------------------------------


@contextmanager
def report(typed: dict[str, str]) -> Iterator[None]:
    """End the process with one line about bad input.

    Args:
        typed: values set on the command line, by key, for errors that name no value.
    """
    try:
        yield
    except KeyboardInterrupt:
        sys.exit(130)
    except Stopped as error:
        if str(error):  # among several processes, only one has a message
            print(clean(str(error)), file=sys.stderr, flush=True)
        sys.exit(error.code)
    except (ConfigError, OSError) as error:
        if isinstance(error, OSError) and error.errno != errno.ENAMETOOLONG:
            raise
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        line = (
            error.line(typed)
            if isinstance(error, ConfigError)
            else f"{error.filename}: expected a shorter name"
        )
        if not is_reported_by_first():
            print(clean(line.replace("\n", " ")), file=sys.stderr, flush=True)
        sys.exit(2)


def hang_up_without_reader(stream: Any) -> None:
    """Treat a stream whose reader is gone, as with `| head -1`, like a closed terminal."""

    def guard(act: Callable[..., Any]) -> Callable[..., Any]:
        def guarded(*arguments: Any) -> Any:
            try:
                return act(*arguments)
            except BrokenPipeError:
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
                signal.raise_signal(getattr(signal, "SIGHUP", signal.SIGTERM))

        return guarded

    stream.write, stream.flush = guard(stream.write), guard(stream.flush)


def is_reported_by_first() -> bool:
    """Whether a run's first process started this one, and soon ended for the same reason."""
    if os.environ.get("LOCAL_RANK", "0") == "0":
        return False
    until = time.monotonic() + PATIENCE
    while os.getppid() == PARENT and time.monotonic() < until:
        time.sleep(0.05)
    return os.getppid() != PARENT


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
    """End the process without unloading modules, which would take Python a second.

    Exit handlers that libraries registered still run. If a thread is still working, Python waits for it
    and ends as usual.
    """
    others = (thread for thread in threading.enumerate() if thread is not threading.main_thread())
    if "torch" in sys.modules and (code or all(thread.daemon for thread in others)):
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
