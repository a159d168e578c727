"""Break runs on purpose and count how they end: `python benchmarks/faults.py --kills 100`.

Each job is run once without a fault; then again and again, killed at random moments and resumed with the
same command and `resume=true`. An ending differs if a weight, a state of the optimizer, a line of
metrics.csv or a point in TensorBoard is not the same, to the last bit. The table goes to
docs/runs.md.
"""

import argparse
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tests"), str(ROOT / "tests/template")]

import conftest  # noqa: E402

from descent.errors import ConfigError  # noqa: E402
from descent.run.checkpoints import read  # noqa: E402
from descent.run.folder import RunFolder  # noqa: E402
from descent.run.rewind import find_newest_whole  # noqa: E402

SHORT = ["data.batch_size=64", "trainer.max_epochs=4", "checkpoint.every=7steps"]
JOBS = {
    "Adam, cosine by step, dropout": ["scheduler=cosine", "model.dropout=0.3", *SHORT],
    "accumulation over 3 batches, SGD, one cycle": [
        "optimizer=sgd",
        "optimizer.momentum=0.9",
        "scheduler=one_cycle",
        "scheduler.max_lr=0.1",
        "trainer.accumulate_grad_batches=3",
        *SHORT,
    ],
    "early stopping, plateau, validation within epochs": [
        "callbacks=early_stopping",
        "callbacks.early_stopping.patience=2",
        "scheduler=plateau",
        "optimizer.lr=0.03",
        "trainer.val_check_interval=0.4",
        *SHORT,
    ],
    "CNN with batch normalisation, saved each epoch": [
        "model=cnn",
        "model.channels=[8]",
        "data.batch_size=128",
        "trainer.max_epochs=4",
        "checkpoint.every=1epoch",
    ],
    "augmentation in two workers, saved by time": [
        "data._target_=augmented.Digits",
        "data.batch_size=64",
        "trainer.max_epochs=4",
        "checkpoint.every=auto",
    ],
    "regression, MAE, AdamW": ["experiment=regression", "trainer.max_epochs=6", "checkpoint.every=5steps"],
}


@dataclass
class Tally:
    """The outcome of one kind of fault."""

    faults: int = 0
    differing: int = 0
    notes: list[str] = field(default_factory=list)


@dataclass
class Job:
    """A command in a folder of its own."""

    words: list[str]
    folder: Path
    environment: dict[str, str] = field(default_factory=dict)

    def start(self, *more: str, limit: int = 0) -> BaseProcess:
        """The command in a process of its own, whose files may be at most `limit` bytes long, if given."""
        self.folder.mkdir(parents=True, exist_ok=True)
        argv = [str(ROOT / "src" / "train.py"), *self.words, f"folder={self.folder}/run", *more]
        out, err = self.folder / "out", self.folder / "err"
        out.unlink(missing_ok=True)
        return conftest.start(argv, self.folder, self.environment, out, err, limit)

    def finish(self, *more: str, limit: int = 0) -> int | None:
        process = self.start(*more, limit=limit)
        process.join()
        return process.exitcode

    def train(self, process: BaseProcess) -> None:
        """Wait until it trains, or has ended."""
        conftest.wait_for(process, self.folder / "out", " parameters, ")

    def error(self) -> str:
        return (self.folder / "err").read_text()

    def said(self) -> str:
        out = self.folder / "out"
        return out.read_text() if out.exists() else ""

    def began(self) -> bool:
        return (self.folder / "run" / "overrides.yaml").exists()


def find_newest(folder: Path) -> tuple[Path | None, dict[str, Any]]:
    """The newest undamaged checkpoint of a run's folder, and its contents."""
    return find_newest_whole(RunFolder(folder))


def ending(folder: Path) -> dict[str, Any]:
    """Everything that a run leaves behind, except for times."""
    checkpoint = read(folder / "checkpoints" / "last.ckpt")
    result = json.loads((folder / "result.json").read_text())
    return {
        "weights": checkpoint["state_dict"],
        "optimizer": checkpoint["optimizer_states"],
        "scheduler": checkpoint["lr_schedulers"],
        "best": read(folder / "checkpoints" / "best.ckpt")["state_dict"],
        "metrics.csv": (folder / "metrics.csv").read_bytes(),
        "result.json": {k: v for k, v in result.items() if k not in ("seconds", "samples_per_second")},
        "tensorboard": points(folder),
    }


def points(folder: Path) -> list[tuple[str, int, float]]:
    """Every scalar in every event file, duplicates included."""
    from tensorboard.backend.event_processing import event_file_loader

    return sorted(
        (value.tag, event.step, float(torch.tensor(value.tensor.float_val or [value.simple_value])[0]))
        for path in folder.rglob("events*")
        for event in event_file_loader.EventFileLoader(str(path)).Load()
        for value in event.summary.value
        if value.tag == "lr" or value.tag.startswith(("train/", "val/", "test/"))
    )


def differences(one: Any, other: Any, name: str = "") -> list[str]:
    """The names of the parts that differ in any bit."""
    if isinstance(one, torch.Tensor):
        same = one.dtype == other.dtype and torch.equal(one, other)
        return [] if same else [name]
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        return [d for key in one for d in differences(one[key], other[key], f"{name}/{key}")]
    if isinstance(one, list | tuple) and isinstance(other, list | tuple) and len(one) == len(other):
        return [
            d
            for i, pair in enumerate(zip(one, other, strict=True))
            for d in differences(*pair, f"{name}/{i}")
        ]
    return [] if one == other or (one != one and other != other) else [name]


def kills(words: list[str], number: int, folder: Path, chance: random.Random) -> Tally:
    """SIGKILL at random moments, two runs out of three more than once, until each has ended on its own."""
    tally = Tally()
    whole = Job(words, folder / "whole")
    assert whole.finish() == 0, whole.error()
    expected = ending(whole.folder / "run")
    timed = Job(words, folder / "timed")
    process = timed.start()
    timed.train(process)
    begun = time.monotonic()
    process.join()
    seconds = time.monotonic() - begun  # of training and testing
    attempt = 0
    while tally.faults < number:
        attempt += 1
        job = Job(words, folder / f"killed{attempt}")
        for _ in range(chance.choice((1, 2, 3))):
            process = job.start(*(["resume=true"] if job.began() else []))
            job.train(process)
            process.join(max(0.0, chance.uniform(-0.1, 1) * seconds))
            if process.exitcode is not None:
                assert process.exitcode == 0, job.error()
                break
            process.kill()
            process.join()
            tally.faults += 1
            if not job.began():  # nothing to resume: the command is repeated
                shutil.rmtree(job.folder / "run", ignore_errors=True)
        code = job.finish(*(["resume=true"] if job.began() else []))
        if code != 0:
            tally.differing += 1
            tally.notes.append(f"exit {code}: {job.error().strip().splitlines()[-1:]}")
            continue
        if different := differences(expected, ending(job.folder / "run")):
            tally.differing += 1
            tally.notes.append(f"{job.folder}: {', '.join(different[:4])}")
    return tally


def truncations(folder: Path, parts: int) -> Tally:
    """A last checkpoint truncated at every 1/parts of its length, or with one byte changed there."""
    tally = Tally()
    job = Job(["trainer.max_epochs=2", "checkpoint.every=1epoch"], folder / "cut")
    assert job.finish() == 0, job.error()
    last = job.folder / "run" / "checkpoints" / "last.ckpt"
    data = last.read_bytes()
    records = torch.load(last, weights_only=True)
    for part in range(parts):
        at = len(data) * part // parts
        for torn in (data[:at], data[:at] + bytes([data[at] ^ 255]) + data[at + 1 :]):
            tally.faults += 1
            last.write_bytes(torn)
            try:
                with redirect_stdout(io.StringIO()):
                    found = find_newest(job.folder / "run")
                # a changed byte may lie in the padding between records, where it changes nothing
                whole = found[0] == last.with_name("previous.ckpt") or not differences(found[1], records)
            except Exception as error:
                tally.notes.append(f"byte {at}: {type(error).__name__} {error}")
                whole = False
            tally.differing += not whole
    return tally


def full_disk(folder: Path, limits: tuple[int, ...] = (20_000, 60_000, 100_000, 200_000)) -> Tally:
    """No file may grow beyond what the first checkpoint needs: one line, and that checkpoint intact."""
    tally = Tally()
    words = ["data.batch_size=64", "trainer.max_epochs=3", "checkpoint.every=20steps"]
    for number, limit in enumerate(limits):
        job = Job(words, folder / f"full{number}")
        process = job.start()
        while process.exitcode is None and not (job.folder / "run/checkpoints/last.ckpt").exists():
            process.join(0.01)
        process.kill()
        process.join()
        before = find_newest(job.folder / "run")
        code = job.finish("resume=true", limit=limit)
        after = find_newest(job.folder / "run")
        one_line = code == 1 and len(job.error().strip().splitlines()) == 1
        same = after[0] is not None and not differences(before[1], after[1])
        tally.faults += 1
        if not (one_line and same):
            tally.differing += 1
            tally.notes.append(f"limit {limit}: exit {code}, {job.error()[-300:]}")
    return tally


def signals(folder: Path, number: int, chance: random.Random) -> Tally:
    """Ctrl-C and SIGTERM at random moments of training: saved, exit 130 or 143, and the same end at last."""
    tally = Tally()
    words = [*JOBS["Adam, cosine by step, dropout"][:2], "data.batch_size=16", "trainer.max_epochs=10"]
    whole = Job(words, folder / "unsignalled")
    assert whole.finish() == 0, whole.error()
    seconds = json.loads((whole.folder / "run" / "result.json").read_text())["seconds"]
    attempt = 0
    expected = ending(whole.folder / "run")
    while tally.faults < number:
        attempt += 1
        sent = signal.SIGINT if attempt % 2 else signal.SIGTERM
        job = Job(words, folder / f"signalled{attempt}")
        process = job.start()
        job.train(process)
        process.join(chance.uniform(0.02, 0.6) * seconds)
        if process.exitcode is not None or process.pid is None:
            continue
        os.kill(process.pid, sent)
        process.join()
        tally.faults += 1
        code = process.exitcode
        told = "resume=" in job.error()
        again = job.finish("resume=true")
        if code != 128 + sent or not told or again != 0 or differences(expected, ending(job.folder / "run")):
            tally.differing += 1
            tally.notes.append(f"{sent.name}: exit {code}, then {again}: {job.error()[-300:]}")
    return tally


def not_a_number(folder: Path, number: int, chance: random.Random) -> Tally:
    """A batch of NaN at a random step: the step and the samples named, the checkpoint before it whole."""
    tally = Tally()
    for attempt in range(number):
        batch = chance.randrange(1, 60)
        job = Job(
            ["data._target_=augmented.Digits", "data.batch_size=64", "checkpoint.every=5steps",
             "trainer.max_epochs=4", f"+data.nan_at={batch}"],
            folder / f"nan{attempt}",
        )  # fmt: skip
        code = job.finish()
        tally.faults += 1
        state = find_newest(job.folder / "run")[1].get("state_dict", {})
        finite = all(bool(w.isfinite().all()) for w in state.values())
        line = job.error().strip()
        if (
            code != 1
            or "\n" in line
            or f"step {batch + 1}," not in line
            or "samples 3" not in line
            or not finite
        ):
            tally.differing += 1
            tally.notes.append(f"step {batch}: exit {code}, {line[-300:]}")
    return tally


def crafted(folder: Path) -> Tally:
    """Checkpoints that would run a command when unpickled: rejected, and nothing ran."""
    tally = Tally()
    path, proof = folder / "crafted.ckpt", folder / "was_run"
    for function in (os.system, eval, exec, os.popen):
        tally.faults += 1

        class Harmful:
            def __reduce__(self, function: Any = function) -> Any:
                code = f"open({str(proof)!r}, 'w')" if function in (eval, exec) else f"touch {proof}"
                return function, (code,)

        torch.save({"state_dict": {}, "harm": Harmful()}, path)
        try:
            read(path)
        except ConfigError:
            tally.differing += proof.exists()
        else:
            tally.differing += 1
    return tally


def wrong_words(folder: Path) -> Tally:
    """Impossible command lines: each gives one line and no folder, or a run."""
    import fuzz

    tally = Tally()
    words = [sys.executable, str(ROOT / "tests/template/fuzz.py"), "1"]
    answer = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)
    if answer.returncode:  # one of them ended the process that tries them all
        tally.faults, tally.differing = 1, 1
        tally.notes.append(f"exit {answer.returncode} after {answer.stdout.splitlines()[-1:]}")
    for line in answer.stdout.splitlines():
        tried = json.loads(line)
        tally.faults += 1
        if wrong := fuzz.fault(tried):
            tally.differing += 1
            tally.notes.append(f"{tried['words']}: {wrong}")
    return tally


def cost(folder: Path, repeats: int) -> None:
    """Print the cost of saving by default: a run's seconds over those of a run that saves once."""
    jobs = {
        "digits, MLP": ["trainer.max_epochs=100"],
        "digits, MLP of 4.4 million weights": ["model.hidden=[2048,2048]", "trainer.max_epochs=8"],
    }
    for index, (name, words) in enumerate(jobs.items()):
        ratios = []
        for repeat in range(repeats):
            seconds = []
            for kind, more in (("default", []), ("end", ["checkpoint.every=1000000epochs"])):
                job = Job([*words, *more], folder / f"cost{index}-{repeat}-{kind}")
                assert job.finish() == 0, job.error()
                seconds.append(json.loads((job.folder / "run" / "result.json").read_text())["seconds"])
            ratios.append(seconds[0] / seconds[1])
        text = f"{median(ratios):.3f} ({min(ratios):.3f}–{max(ratios):.3f})"
        print(
            f"checkpoint.every=auto, {name}: {text} times the seconds with one save, at the end", flush=True
        )


def table(rows: dict[str, Tally]) -> str:
    lines = ["| fault | times | not as it should be |", "| --- | ---: | ---: |"]
    lines += [f"| {name} | {tally.faults} | {tally.differing} |" for name, tally in rows.items()]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=120, help="SIGKILLs in all, over the jobs")
    parser.add_argument("--signals", type=int, default=20)
    parser.add_argument("--nan", type=int, default=10)
    parser.add_argument("--parts", type=int, default=50, help="places at which a checkpoint is cut")
    parser.add_argument("--repeats", type=int, default=5, help="of the runs with and without checkpoints")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--job", help="only jobs with this in their name")
    arguments = parser.parse_args()
    chance = random.Random(arguments.seed)
    rows: dict[str, Tally] = {}

    def count(name: str, tally: Tally) -> None:
        rows[name] = tally
        print(f"{name}: {tally.faults} times, {tally.differing} not as it should be", flush=True)
        for note in tally.notes:
            print(f"  {note}", flush=True)

    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        jobs = {name: words for name, words in JOBS.items() if (arguments.job or "") in name}
        for index, (name, words) in enumerate(jobs.items()):
            each = -(-arguments.kills // len(jobs))
            count(f"SIGKILL: {name}", kills(words, each, folder / f"job{index}", chance))
        if not arguments.job:
            count("SIGINT and SIGTERM while training", signals(folder, arguments.signals, chance))
            count("checkpoint cut, or one byte changed", truncations(folder, arguments.parts))
            count("disk full", full_disk(folder))
            count("NaN in a batch", not_a_number(folder, arguments.nan, chance))
            count("checkpoint that would run a command", crafted(folder))
            count("wrong command line", wrong_words(folder))
            cost(folder, arguments.repeats)
    print("\n" + table(rows))
    sys.exit(any(tally.differing for tally in rows.values()))


if __name__ == "__main__":
    main()
