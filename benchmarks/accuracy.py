"""What the defaults reach: small tables compared with scikit-learn, and digits with every loss and optimizer.

`uv run --group benchmark python benchmarks/accuracy.py` prints three Markdown tables: the test split of six
tables, five seeds of two pairs, and final validation accuracy of every pair (the second with the seconds
from command to result). `--only tables`, `--only seeds` or `--only matrix` prints one of them.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
import warnings
from importlib.util import find_spec
from pathlib import Path
from statistics import mean, stdev

import polars as pl
import sklearn.datasets
import torch
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.neural_network import MLPClassifier, MLPRegressor

ROOT = Path(__file__).resolve().parents[1]
PAIRS = (("mae", "sgd"), ("cross_entropy", "adam"))
SEEDS = range(5)
TABLES = ("iris", "wine", "breast_cancer", "diabetes", "digits", "weather")
TABLE_SEEDS = range(10)  # a test split of iris has 15 rows
CLASSIFIERS = (LogisticRegression, RandomForestClassifier, MLPClassifier)
REGRESSORS = (Ridge, RandomForestRegressor, MLPRegressor)

sys.path.insert(0, str(ROOT / "src"))


def words_of(group: str) -> list[str]:
    return sorted(path.stem for path in (ROOT / "conf" / group).glob("*.yaml"))


def train(*words: str) -> None:
    subprocess.run([sys.executable, ROOT / "src/train.py", *words], check=True, stdout=subprocess.DEVNULL)


def write_table(name: str, path: Path) -> None:
    """Write a data set as a person would have it: a CSV with class names."""
    if name == "weather":  # of Seattle, 2012 to 2015; found without importing the package, and pandas with it
        spec = find_spec("vega_datasets")
        assert spec is not None and spec.submodule_search_locations, "needs --group benchmark"
        file = Path(spec.submodule_search_locations[0], "_data", "seattle-weather.csv")
        pl.read_csv(file).rename({"weather": "target"}).write_csv(path)
        return
    data = getattr(sklearn.datasets, f"load_{name}")()
    names = data.get("target_names", [])
    target = [str(names[i]) for i in data.target] if len(names) else data.target
    frame = pl.DataFrame(data.data, schema=[str(column) for column in data.feature_names])
    frame.with_columns(target=pl.Series(target)).write_csv(path)


def compare(folder: Path, seed: int) -> list[float]:
    """Score the run in a folder, and three models of scikit-learn, on that run's test split.

    They see what the run's network sees, and learn from its training and its validation rows.
    """
    from descent.build import build_node
    from descent.run.folder import RunFolder
    from descent.run.trust import read_yaml

    run = RunFolder(folder)
    data = build_node("data", read_yaml(run.config)["data"])
    tests = json.loads(run.result.read_text())["test"]
    (x, y), (vx, vy), (tx, ty) = (
        (
            data.inputs[rows] if data.scaled_once else data.scaling(data.inputs[rows]),
            data.targets[rows].squeeze(),
        )
        for rows in data.rows.values()
    )
    scores = [tests["test/acc" if data.class_counts else "test/r2"]]
    for kind in CLASSIFIERS if data.class_counts else REGRESSORS:
        model = kind() if kind in (LogisticRegression, Ridge) else kind(random_state=seed)
        model.fit(torch.cat([x, vx]).numpy(), torch.cat([y, vy]).numpy())
        scores.append(float(model.score(tx.numpy(), ty.numpy())))
    return scores


def tables() -> None:
    """Rows are data sets, columns models, cells mean ± standard deviation over the seeds."""
    print("| | rows | `data=table` | logistic regression, ridge | random forest | MLP |")
    print("|---|--:|--:|--:|--:|--:|", flush=True)
    warnings.filterwarnings("ignore", category=ConvergenceWarning)
    for name in TABLES:
        scores = []
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "table.csv")
            write_table(name, path)
            for seed in TABLE_SEEDS:
                words = ("data=table", f"data.path={path}", "data.target=target", "logger=none", "threads=1")
                train(*words, f"seed={seed}", f"folder={folder}/{seed}")
                scores.append(compare(Path(folder, str(seed)), seed))
            rows = len(pl.read_csv(path))
        cells = [
            f"{100 * mean(column):.1f} ± {100 * stdev(column):.1f}" for column in zip(*scores, strict=True)
        ]
        print(f"| {name} | {rows:,} | " + " | ".join(cells) + " |", flush=True)


def accuracy(folder: Path) -> float:
    return json.loads((folder / "result.json").read_text())["final"]["val/acc"]


def matrix() -> None:
    """Rows are optimizers, columns losses, cells per cent."""
    losses = words_of("loss")
    optimizers = [word for word in words_of("optimizer") if word != "sparse_adam"]  # needs sparse gradients
    print("| | " + " | ".join(losses) + " |\n|---|" + "--:|" * len(losses), flush=True)
    for optimizer in optimizers:
        with tempfile.TemporaryDirectory() as folder:
            where = (f"folder={folder}", "logger=none")
            train("-m", f"loss={','.join(losses)}", f"optimizer={optimizer}", *where)
            cells = [f"{100 * accuracy(Path(folder, f'loss={loss}')):.1f}" for loss in losses]
        print(f"| {optimizer} | " + " | ".join(cells) + " |", flush=True)


def seeds() -> None:
    """One command per run, as a user types it: accuracy and wall time."""
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
    parser.add_argument("--only", choices=["tables", "seeds", "matrix"])
    only = parser.parse_args().only
    for part in (tables, seeds, matrix):
        if only in (None, part.__name__):
            part()
            print()
