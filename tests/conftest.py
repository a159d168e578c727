"""Commands as users type them, each in a process of its own that starts with torch already imported."""

import io
import multiprocessing
import os
import resource
import runpy
import signal
import sys
from collections.abc import Callable
from contextlib import chdir
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TRAIN = str(ROOT / "src/train.py")

# what nohup, or a shell's &, has told to ignore them must not tell the commands so
signal.signal(signal.SIGHUP, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)

# A process forked from one that has done the slow imports is as separate as any, and starts at once. One of
# them is this file, which says what the process does, and imports pytest.
server = multiprocessing.get_context("forkserver")
slow = ("hydra", "torch", "lightning.pytorch", "torchmetrics", "torch.utils.tensorboard", "sklearn.datasets")
server.set_forkserver_preload([*slow, "conftest"])


@dataclass
class Finished:
    """What a command left behind: exit code, what it printed, and the folder that it ran in."""

    code: int | None
    out: str
    err: str
    folder: Path


Run = Callable[..., Finished]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """`run("loss=mae", "optimizer=sgd")` is `python src/train.py loss=mae optimizer=sgd`, from tmp_path.

    A run goes to `tmp_path/run` unless a word names another folder; `command=` names another file of src/.
    """

    def run(*words: str, command: str = "train", timeout: float = 120, **env: str) -> Finished:
        placed = ("folder=", "-", "resume=/", "resume=run")
        if command == "train" and not any(word.startswith(placed) for word in words):
            words = (*words, f"folder={tmp_path}/run")
        return finish([str(ROOT / "src" / f"{command}.py"), *words], tmp_path, env, timeout)

    return run


def make_run(factory: pytest.TempPathFactory, *words: str) -> Finished:
    """Train in a folder `run`, for tests that only read it, or copy it first."""
    folder = factory.mktemp("made")
    finished = finish([TRAIN, *words, f"folder={folder}/run"], folder, {}, 120)
    assert finished.code == 0, finished.err
    return finished


def finish(argv: list[str], folder: Path, env: dict[str, str], timeout: float) -> Finished:
    """Run a Python file with arguments in a forked process, from `folder`."""
    if not Path(argv[0]).exists():
        pytest.skip(f"{argv[0]} was taken out with its room")
    out, err = folder / ".out", folder / ".err"
    process = start(argv, folder, env, out, err)
    process.join(timeout)
    if process.exitcode is None:
        process.kill()
        pytest.fail(f"{argv} took more than {timeout} s: {out.read_text()} {err.read_text()}")
    return Finished(process.exitcode, out.read_text(), err.read_text(), folder)


def start(
    argv: list[str], folder: Path, env: dict[str, str], out: Path, err: Path, limit: int = 0
) -> BaseProcess:
    """Run a Python file as `execute` does, and do not wait for it."""
    process = server.Process(target=execute, args=(argv, folder, env, out, err, limit))
    with chdir(ROOT / "tests"):  # the fork server, which starts with the first process, finds this file there
        process.start()
    return process


def wait_for(process: BaseProcess, file: Path, text: str) -> None:
    """Wait until a process has written a text to a file, or has ended."""
    while process.exitcode is None and not (file.exists() and text in file.read_text()):
        process.join(0.005)


def send(process: BaseProcess, number: int) -> int | None:
    """Send a process a signal; returns the exit code with which it ends, or None where it does not."""
    assert process.pid is not None
    os.kill(process.pid, number)
    process.join(60)
    return process.exitcode


def execute(argv: list[str], folder: Path, env: dict[str, str], out: Path, err: Path, limit: int) -> None:
    """In the new process: what `python file.py arguments` does, with files of at most `limit` bytes."""
    if limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    os.chdir(folder)
    os.environ.update(env)
    for path, descriptor in ((out, 1), (err, 2)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
    streams = (io.TextIOWrapper(os.fdopen(d, "wb"), "utf-8", write_through=True) for d in (1, 2))
    sys.stdout, sys.stderr = streams
    multiprocessing.set_start_method(None, force=True)  # else its workers outlive it when it is killed
    sys.argv = argv
    sys.path[:0] = [str(Path(argv[0]).parent), str(ROOT / "tests/template")]  # code to break runs with
    runpy.run_path(argv[0], run_name="__main__")
