"""What the defaults reach on the default data: every loss with every optimizer, and five seeds of two pairs.

`python benchmarks/accuracy.py` prints two Markdown tables of final validation accuracy (the second with the
seconds from command to result); `--only seeds` or `--only matrix` prints one of them.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import mean

ROOT = Path(__file__).resolve().parents[1]
PAIRS = (("mae", "sgd"), ("cross_entropy", "adam"))
SEEDS = range(5)


def words_of(group: str) -> list[str]:
    return sorted(path.stem for path in (ROOT / "conf" / group).glob("*.yaml"))


def train(*words: str) -> None:
    subprocess.run([sys.executable, ROOT / "src/train.py", *words], check=True, stdout=subprocess.DEVNULL)


def accuracy(folder: Path) -> float:
    return json.loads((folder / "result.json").read_text())["final"]["val/acc"]


def matrix() -> None:
    """Rows are optimizers, columns losses, cells per cent."""
    losses = words_of("loss")
    optimizers = [word for word in words_of("optimizer") if word != "sparse_adam"]  # needs sparse gradients
    print("| | " + " | ".join(losses) + " |\n|---|" + "--:|" * len(losses), flush=True)
    for optimizer in optimizers:
        with tempfile.TemporaryDirectory() as folder:
            where = "folder=" + folder + "/${hydra:runtime.choices.loss}"
            sweep = ("hydra.sweep.dir=" + folder, "logger=none")
            train("-m", f"loss={','.join(losses)}", f"optimizer={optimizer}", where, *sweep)
            cells = [f"{100 * accuracy(Path(folder, loss)):.1f}" for loss in losses]
        print(f"| {optimizer} | " + " | ".join(cells) + " |", flush=True)


def seeds() -> None:
    """One command a run, as a user types it: accuracy and wall time."""
    print("| | " + " | ".join(f"seed {seed}" for seed in SEEDS) + " | mean | lowest | slowest |")
    print("|---|" + "--:|" * (len(SEEDS) + 3), flush=True)
    for loss, optimizer in PAIRS:
        found, seconds = [], []
        for seed in SEEDS:
            with tempfile.TemporaryDirectory() as folder:
                begun = time.perf_counter()
                train(f"loss={loss}", f"optimizer={optimizer}", f"seed={seed}", f"folder={folder}/run")
                seconds.append(time.perf_counter() - begun)
                found.append(100 * accuracy(Path(folder, "run")))
        cells = [f"{figure:.1f}" for figure in (*found, mean(found), min(found))]
        print(
            f"| `loss={loss} optimizer={optimizer}` | " + " | ".join(cells) + f" | {max(seconds):.1f} s |",
            flush=True,
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=["seeds", "matrix"])
    only = parser.parse_args().only
    if only != "matrix":
        seeds()
        print()
    if only != "seeds":
        matrix()
