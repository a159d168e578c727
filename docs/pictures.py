"""Makes the pictures of the documentation: `python docs/pictures.py`; `--board` wants Chromium.

`first.png` is a sweep's curves beside its ranking; `tensorboard.png` a screenshot of TensorBoard.
"""

import argparse
import csv
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from statistics import fmean, stdev

import yaml

HERE = Path(__file__).resolve().parent
TRAIN = [sys.executable, str(HERE.parent / "src/train.py")]
LOSSES, OPTIMIZERS, SEEDS, EPOCHS = ("mae", "cross_entropy"), ("sgd", "adam", "muon"), range(5), 20


def run_sweep(folder: Path) -> None:
    """Train each loss with each optimizer from five seeds."""
    words = [f"loss={','.join(LOSSES)}", f"optimizer={','.join(OPTIMIZERS)}"]
    words += [f"seed={','.join(map(str, SEEDS))}", f"trainer.max_epochs={EPOCHS}", "data.batch_size=64"]
    subprocess.run([*TRAIN, "-m", *words, f"folder={folder}"], check=True)


def read_runs(folder: Path) -> dict[str, list[tuple[list[dict[str, str]], dict[str, float]]]]:
    """Return, by choice, the rows of metrics.csv and the test metrics of its runs."""
    found = defaultdict(list)
    for path in folder.glob("*/result.json"):
        choices = yaml.safe_load((path.parent / "config.yaml").read_text())["choices"]
        with (path.parent / "metrics.csv").open() as file:
            rows = list(csv.DictReader(file))
        found[f"{choices['loss']} {choices['optimizer']}"].append((rows, json.loads(path.read_text())))
    return found


def draw(folder: Path, path: Path) -> None:
    """Draw training and validation in one chart, beside the ranking."""
    from matplotlib import pyplot

    runs = read_runs(folder)
    scores = {name: [result["best"]["val/acc"] for _, result in of] for name, of in runs.items()}
    order = sorted(scores, key=lambda name: -fmean(scores[name]))
    figure, (left, right) = pyplot.subplots(
        1, 2, figsize=(12, 4.2), width_ratios=[1.15, 1], layout="constrained"
    )
    rows = []
    for number, name in enumerate(order):
        colour = f"C{number}"
        for stage, style in (("train", ":"), ("val", "-")):
            curves = [[float(row[f"{stage}/acc"]) for row in of] for of, _ in runs[name]]
            mean = [fmean(values) for values in zip(*curves, strict=True)]
            left.plot(
                range(1, len(mean) + 1), mean, style, color=colour, label=name if stage == "val" else None
            )
        tests = [result["test"]["test/acc"] for _, result in runs[name]]
        cells = (f"{fmean(values):.3f} ± {stdev(values):.3f}" for values in (scores[name], tests))
        rows.append([*name.split(), *cells])
    left.set(xlabel="epoch", ylabel="accuracy", title="solid: validation, dotted: training", ylim=(0.5, 1.01))
    left.xaxis.get_major_locator().set_params(integer=True)
    left.legend(loc="lower right")
    right.axis("off")
    table = right.table(rows, colLabels=["loss", "optimizer", "val/acc", "test/acc"], loc="center")
    table.auto_set_font_size(False)
    table.set_fontsize(11)
    table.scale(1, 1.7)
    for (row, _), cell in table.get_celld().items():
        cell.set_edgecolor("lightgray")
        if row == 0:
            cell.set_text_props(weight="bold")
        elif row <= len(order):
            cell.set_text_props(color=f"C{row - 1}")
    right.set_title(
        f"{len(order) * len(SEEDS)} runs, ranked: mean ± standard deviation over {len(SEEDS)} seeds"
    )
    figure.savefig(path, dpi=110)


def shoot_board(folder: Path, path: Path) -> None:
    """Take a screenshot of TensorBoard on some runs of a sweep."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        raise SystemExit("--board: Chromium is not installed")
    board = [sys.executable, "-m", "tensorboard.main", "--logdir", str(folder), "--port", "6123"]
    with (
        subprocess.Popen(board, stderr=subprocess.DEVNULL) as server,
        tempfile.TemporaryDirectory() as profile,
    ):
        time.sleep(20)
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run"]
        flags += ["--disable-background-networking", f"--user-data-dir={profile}"]
        page = "http://localhost:6123/#custom_scalars"
        wait = ["--virtual-time-budget=40000", "--window-size=1500,1000", f"--screenshot={path}", page]
        subprocess.run([chromium, *flags, *wait], check=True, stderr=subprocess.DEVNULL)
        server.kill()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--board", action="store_true")
    parser.add_argument("--sweep", type=Path, help="a folder of runs that are there")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = arguments.sweep or Path(place) / "sweep"
        if arguments.sweep is None:
            run_sweep(folder)
        draw(folder, HERE / "first.png")
        if arguments.board:
            shoot_board(folder, HERE / "tensorboard.png")
