"""What a search gains: `python benchmarks/searches.py`, some hundred short runs on digits.

TPE against random search at equal numbers of trials, over seeds: the best validation accuracy, and the test
accuracy of that run.
"""

import csv
import subprocess
import sys
from pathlib import Path
from statistics import mean, stdev
from tempfile import TemporaryDirectory

ROOT = Path(__file__).resolve().parents[1]
SPACE = ["optimizer.lr=tag(log,interval(1e-5,1))", "optimizer.weight_decay=tag(log,interval(1e-6,1))",
         "model.hidden=[16],[64],[256]", "model.dropout=interval(0,0.6)"]  # fmt: skip


def sweep(folder: Path, *words: str) -> list[dict[str, str]]:
    """The lines of a sweep's ranking, best first."""
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


if __name__ == "__main__":
    samplers(20, 4)
