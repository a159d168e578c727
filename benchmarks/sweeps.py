"""A sweep against its runs one by one: `python benchmarks/sweeps.py`, and killed at random: `--kills 30`.

Twelve runs on digits, as separate commands, as a sweep of one run at a time, and as a sweep with all cores;
the ideal is one command's imports, and the rest of twelve commands shared by the cores. All
weights are compared bit for bit. With `--kills`, sweeps are killed by SIGKILL, their parent or one of their
workers, at random moments, and resumed until they end.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import time
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

ROOT = Path(__file__).resolve().parents[1]
TRAIN = [sys.executable, str(ROOT / "src/train.py")]
VALUES = {"loss": ["mae", "cross_entropy"], "optimizer": ["sgd", "adam"], "seed": ["0", "1", "2"]}
SWEEP = [f"{key}={','.join(values)}" for key, values in VALUES.items()]
RUNS = [[f"{k}={v}" for k, v in zip(VALUES, run, strict=True)] for run in product(*VALUES.values())]


def clock(*arguments: list[str]) -> tuple[float, float]:
    """Seconds, and seconds of a core, of commands one after another."""
    begun, before = time.perf_counter(), os.times()
    for words in arguments:
        subprocess.run([*TRAIN, *words], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    after = os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return time.perf_counter() - begun, cpu


def importing() -> float:
    """Seconds of a core that a command takes for its imports, without garbage collection and a quick end."""
    before = os.times()
    names = "hydra, torch, torch._dynamo, lightning.pytorch, torch.utils.tensorboard, torchmetrics"
    code = f"import gc, os; gc.disable(); import {names}; os._exit(0)"
    subprocess.run([sys.executable, "-c", code], check=True)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def differing(one: Path, other: Path) -> int:
    """Return how many of the runs differ in a weight."""
    return sum(weights(one / ",".join(run)) != weights(other / ",".join(run)) for run in RUNS)


def weights(folder: Path) -> dict[str, bytes]:
    """The last and the best weights of a run, by name."""
    found: dict[str, bytes] = {}
    for name in ("last", "best"):
        state = torch.load(folder / f"checkpoints/{name}.ckpt", weights_only=True)["state_dict"]
        found |= {f"{name} {key}": value.numpy().tobytes() for key, value in state.items()}
    return found


def compare(epochs: int, repeats: int) -> None:
    """Print the seconds of each way, and whether all weights are the same."""
    cores = len(os.sched_getaffinity(0))
    short = [f"trainer.max_epochs={epochs}"]
    print("| | seconds | of a core | other weights |\n|---|--:|--:|--:|", flush=True)
    for _ in range(repeats):
        with TemporaryDirectory() as place:
            folder = Path(place)
            commands = [[*run, *short, f"folder={folder}/alone/{','.join(run)}"] for run in RUNS]
            alone = clock(*commands)
            print(f"| twelve commands | {alone[0]:.1f} | {alone[1]:.1f} | |", flush=True)
            for jobs in ("1", "auto"):
                words = ["-m", *SWEEP, *short, f"jobs={jobs}", f"folder={folder}/{jobs}"]
                seconds, cpu = clock(words)
                other = differing(folder / "alone", folder / jobs)
                print(f"| a sweep, jobs={jobs} | {seconds:.1f} | {cpu:.1f} | {other} of 12 |", flush=True)
            imports = importing()
            ideal = imports + (alone[1] - 12 * imports) / cores  # by seconds of a core: others may use them
            print(f"| ideal on {cores} idle cores | {ideal:.1f} | | |", flush=True)


def kills(number: int, epochs: int, chance: random.Random) -> None:
    """Kill sweeps, resume them to their end, and print what differs from an undisturbed one."""
    words = ["-m", *SWEEP, f"trainer.max_epochs={epochs}", "checkpoint.every=20steps"]
    done = {"parent": 0, "worker": 0}
    wrong = sweeps = 0
    with TemporaryDirectory() as place:
        whole = clock([*words, f"folder={place}/whole"])[0]
        while sum(done.values()) < number:
            sweeps += 1
            folder = Path(place, f"killed{sweeps}")
            for _ in range(3):  # each sweep is killed up to three times
                resume = ["resume=true"] if (folder / "sweep.yaml").exists() else []
                victim = kill_one([*words, f"folder={folder}", *resume], chance, whole)
                done[victim] = done.get(victim, 0) + 1
            last = ["resume=true"] if (folder / "sweep.yaml").exists() else []
            clock([*words, f"folder={folder}", *last])
            wrong += differing(Path(place, "whole"), folder)
            same = ranking(folder) == ranking(Path(place, "whole"))
            print(f"sweep {sweeps}: {done}, {wrong} runs differ, ranking the same: {same}", flush=True)


def ranking(folder: Path) -> list[list[str]]:
    """The lines of the ranking, without the seconds."""
    return [line.split("|")[:-2] for line in (folder / "ranking.md").read_text().splitlines()]


def kill_one(words: list[str], chance: random.Random, whole: float) -> str:
    """Start a sweep and kill its parent or one of its workers; returns which it was."""
    process = subprocess.Popen([*TRAIN, *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(chance.uniform(1, whole))
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    workers = children.read_text().split() if process.poll() is None else []
    victim = chance.choice(["parent", "worker"]) if workers else "parent"
    if process.poll() is not None:
        return "none"
    os.kill(process.pid if victim == "parent" else int(chance.choice(workers)), signal.SIGKILL)
    process.wait()
    return victim


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=0)
    parser.add_argument("--repeats", type=int, default=1)
    arguments = parser.parse_args()
    if arguments.kills:
        kills(arguments.kills, arguments.epochs or 4, random.Random(0))
    else:
        compare(arguments.epochs or 40, arguments.repeats)
