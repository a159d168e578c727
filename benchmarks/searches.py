"""What searching brings: `python benchmarks/searches.py`, some hundred short runs on digits.

The first table has TPE against random search at equal numbers of trials, over seeds: the best validation
accuracy, and the test accuracy of that run. The second has the learning rate that `search=lr_range` suggests
against the best of a grid, trained for longer, for losses and optimizers.
"""

import argparse
import csv
import subprocess
import sys
from itertools import product
from pathlib import Path
from statistics import mean, stdev
from tempfile import TemporaryDirectory

ROOT = Path(__file__).resolve().parents[1]
SPACE = ["optimizer.lr=tag(log,interval(1e-5,1))", "optimizer.weight_decay=tag(log,interval(1e-6,1))",
         "model.hidden=[16],[64],[256]", "model.dropout=interval(0,0.6)"]  # fmt: skip
RATES = "1e-5,1e-4,3e-4,1e-3,3e-3,1e-2,3e-2,1e-1,3e-1"


def sweep(folder: Path, *words: str) -> list[dict[str, str]]:
    """The lines of a sweep's ranking, the best first."""
    arguments = [sys.executable, str(ROOT / "src/train.py"), "-m", *words, "logger=none", f"folder={folder}"]
    subprocess.run(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
    return list(csv.DictReader((folder / "ranking.csv").read_text().splitlines()))


def samplers(trials: int, seeds: int) -> None:
    """Print the best of each sampler's trials by seed."""
    found: dict[str, list[tuple[float, float]]] = {"random": [], "tpe": []}
    words = ["optimizer=adamw", "monitor=val/acc", "mode=max", f"trials={trials}", "trainer.max_epochs=3"]
    print(f"| {trials} trials | " + " | ".join(f"seed {seed}" for seed in range(seeds)) + " | mean | test |")
    print("|---|" + "--:|" * (seeds + 2))
    for name, results in found.items():
        for seed in range(seeds):
            with TemporaryDirectory() as place:
                settings = [f"search={name}", f"seed={seed}", *SPACE, *words]
                best = sweep(Path(place, "sweep"), *settings)[0]
            results.append((100 * float(best["val/acc mean"]), 100 * float(best["test/acc mean"])))
        cells = [f"{value:.1f}" for value, _ in results]
        average = f"{mean(v for v, _ in results):.1f} ± {stdev(v for v, _ in results):.1f}"
        print(f"| {name} | {' | '.join(cells)} | {average} | {mean(t for _, t in results):.1f} |", flush=True)


def rates(epochs: int) -> None:
    """Print the suggested rate, the grid's best, and what both come to."""
    print("| loss, optimizer | suggested | val/acc | best of the grid | val/acc |\n|---|--:|--:|--:|--:|")
    optimizers = ("sgd", "adam", "adamw", "rmsprop", "nadam", "adagrad")
    for loss, optimizer in product(("cross_entropy", "mae"), optimizers):
        with TemporaryDirectory() as place:
            words = [f"loss={loss}", f"optimizer={optimizer}"]
            short = [
                sys.executable,
                str(ROOT / "src/train.py"),
                "-m",
                *words,
                "search=lr_range",
                "logger=none",
            ]
            out = subprocess.run(
                [*short, f"folder={place}/range"], capture_output=True, text=True, check=True
            )
            rate = out.stdout.split("Suggestion:  optimizer.lr=")[1].split(",")[0]
            longer = [*words, "monitor=val/acc", "mode=max", f"trainer.max_epochs={epochs}"]
            grid = sweep(Path(place, "grid"), *longer, f"optimizer.lr={RATES},{rate}")
        by_rate = {float(line["optimizer.lr"]): float(line["val/acc mean"]) for line in grid}
        suggested = by_rate.pop(float(rate), float("nan"))
        best = max(by_rate, key=by_rate.__getitem__)
        cells = [
            f"{loss}, {optimizer}",
            rate,
            f"{100 * suggested:.1f}",
            f"{best:g}",
            f"{100 * by_rate[best]:.1f}",
        ]
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=["samplers", "rates"])
    only = parser.parse_args().only
    if only != "rates":
        samplers(20, 4)
    if only != "samplers":
        rates(10)
