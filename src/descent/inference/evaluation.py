"""What a trained run does well and what it does badly: its own metrics, a table and a picture."""

import json
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout
from copy import deepcopy
from io import StringIO
from itertools import chain
from math import isfinite
from types import SimpleNamespace
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.classification import MulticlassConfusionMatrix, MultilabelConfusionMatrix

from descent.build import build_node, builder
from descent.callbacks.recorder import without_nan
from descent.data.named_path import NamedPath
from descent.data.samples import FromSamples
from descent.errors import ConfigError, require
from descent.inference.pictures import draw_confusion, draw_values, shorten
from descent.inference.predictor import Predictor, printable, refuse_misfits
from descent.losses import weigh_classes
from descent.metrics import count_samples
from descent.run.folder import RunFolder, make
from descent.task import IGNORED, Task

OWN = "_report"  # the name, among the run's metrics, of the one that the report is made from


def read_split(model: Predictor, split: str) -> Iterator[Any]:
    """Return the batches of a split of a run's own data, in a fixed order and without augmentation.

    Raises:
        ConfigError: the data is no longer what the run has seen.
    """
    run = model.run
    require("data" in run.config, "input", None, "a file, because this folder does not contain a run's data")
    node = dict(run.config["data"])
    if "path" in node:  # the absolute one, because the run may have started in another folder
        node["path"] = run.data["reader"].get("path", node["path"])
    if "eval_batch_size" in node:
        node["eval_batch_size"] = model.batch_size
    # read by the run's own rules, so that how another machine rounds is no change
    data = build_node("data", node, {"like": run.like()}, run.allowed)
    data.prepare_data()
    data.setup("test" if split == "test" else "fit")
    if changed := [name for name, now in data.describe().items() if run.data.get(name) != now]:
        expected = f"its data as it was in training, but it has another {changed[0]}; input=… takes any file"
        raise ConfigError("run", str(run.folder), expected=expected)
    if split == "train" and isinstance(data, FromSamples):
        data.rows["val"], split = data.rows["train"], "val"
    return iter(getattr(data, f"{split}_dataloader")())


def read_file(model: Predictor, path: str) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield batches of a file or folder, scaled; samples without a target are left out.

    Raises:
        ConfigError: it cannot be read, or its targets are not those of the run.
    """
    file, task = NamedPath("input", path), model.task
    for inputs, targets in model.reader.read_with_targets(file, task.names if task.kind == "classes" else []):
        flat = targets.reshape(len(targets), -1)
        if task.kind != "classes":
            targets = flat
            if flat.shape[1] != len(task.names):
                raise file.error(f"{len(task.names)} target values a sample, not {flat.shape[1]}")
        for rows in flat.isfinite().all(1).nonzero().flatten().split(model.batch_size):
            if len(rows):
                y = targets[rows]
                yield model.scaling(inputs[rows]), task.standardise(y) if hasattr(task, "standardise") else y


def evaluate(model: Predictor, batches: Iterator[Any]) -> tuple[dict[str, Any], str, dict[str, str]]:
    """Test a run's module on batches, as `Trainer.test` does after training.

    Returns:
        Plain values, first the run's metrics by name, null where one is not defined; the same as text; and
        pictures as SVG, by the names of their files.

    Raises:
        ConfigError: there are no samples.
    """
    first, samples = next(batches, None), 0
    require(first is not None, "run", str(model.run.folder), "samples with targets, but there are none")

    def count() -> Iterator[Any]:
        nonlocal samples
        for batch in chain([first], batches):
            samples += count_samples(batch)
            yield batch

    module, precision = build_module(model), model.run.config.get("trainer", {}).get("precision")
    quiet: Any = dict.fromkeys(("checkpointing", "progress_bar", "model_summary"), False)
    trainer = Trainer(
        accelerator=model.device.type,
        devices=1,
        precision=precision,
        inference_mode=False,  # `Supervised` tries a batch with gradients
        logger=False,
        **{f"enable_{name}": value for name, value in quiet.items()},
    )
    with redirect_stdout(StringIO()) as said, refuse_misfits(model.run):  # why a metric is not defined
        logged = trainer.test(module, count(), verbose=False)[0]
    metrics = {name.removeprefix("test/"): value for name, value in logged.items() if OWN not in name}
    shown = ", ".join(f"{n} {f'{v:.4f}' if isfinite(v) else 'not defined'}" for n, v in metrics.items())
    metric = getattr(getattr(module, "test_metrics", None), "metrics", {}).get(OWN)
    details, table, pictures = report(metric, model.task) if metric is not None else ({}, "", {})
    notes = "".join(f"{line}\n" for line in model.reader.notes())
    text = f"{samples:,} samples: {shown}\n{said.getvalue()}\n{table}{notes}"
    return without_nan({"samples": samples, **metrics, **details}), text, pictures


def build_module(model: Predictor) -> LightningModule:
    """Return the run's module with its weights, its loss, its metrics, and one more for the report."""
    run, task = model.run, model.task
    build = builder({"metrics": {}, **run.config}, run.allowed)
    with refuse_misfits(run):
        weights = weigh_classes(run.config["loss"], SimpleNamespace(**run.data))
        module = build(
            "module",
            model=model.model,
            criterion=build("loss", task=task, **weights),
            metrics={**(build("metrics", task=task, **model.sizes) or {}), **choose_report(task)},
            task=deepcopy(task),  # the trainer moves its own to the device
            scaling=deepcopy(model.scaling),
            optimizer=None,
        )
        module.load_state_dict(run.checkpoint["state_dict"])
    return module


def write_report(run: str, values: dict[str, Any], text: str, pictures: dict[str, str]) -> str:
    """Write an evaluation into a new folder within the run's, and return a line that names the files."""
    metrics = json.dumps(values, indent=2, ensure_ascii=False) + "\n"
    texts = {"metrics.json": printable(metrics), "report.txt": printable(text), **pictures}
    folder = RunFolder(RunFolder(run).evaluation)
    folder = make(folder, lambda folder: {folder.path / name: text for name, text in texts.items()})
    return f"Written to {folder}: {', '.join(texts)}"


# ---- what is reported of each kind of task -----------------------------------------------------------------


class Pairs(Metric):
    """Keeps predicted and true values, `(n, outputs)`."""

    pairs: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.add_state("pairs", [], dist_reduce_fx="cat")

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        self.pairs.append(torch.stack([outputs, targets], 1))

    def compute(self) -> Tensor:
        """Return them as `(n, 2, outputs)`."""
        return torch.cat(self.pairs)


def choose_report(task: Task) -> dict[str, Metric]:
    """Return the metric that collects what a report is made from; none for a task of one's own."""
    kinds: dict[str, Any] = {
        "classes": lambda n: MulticlassConfusionMatrix(n, ignore_index=IGNORED, validate_args=False),
        "labels": lambda n: MultilabelConfusionMatrix(n, validate_args=False),
        "values": lambda n: Pairs(),
    }
    return {OWN: kinds[task.kind](len(task.names))} if task.kind in kinds else {}


def report(metric: Metric, task: Task) -> tuple[dict[str, Any], str, dict[str, str]]:
    """Return plain values, a table, and pictures by their files' names."""
    names, found = [printable(name) for name in task.names], metric.compute().cpu()
    pictures, more = {}, {}
    if task.kind == "values":
        rows = measure_values(*found.double().unbind(1), names)
        pictures = {"predicted_against_true.svg": draw_values(*found.unbind(1), names)}
    elif task.kind == "labels":
        rows = measure_hits(found[:, 1, 1], found[:, :, 1].sum(1), found[:, 1].sum(1), names)
    else:
        rows = measure_hits(found.diagonal(), found.sum(0), found.sum(1), names)
        pictures = {"confusion_matrix.svg": draw_confusion(metric, found, names)}
        more = {"confusion": found.tolist()}
    return {task.kind: rows, **more}, tabulate(rows), pictures


def measure_hits(
    right: Tensor, taken: Tensor, support: Tensor, names: Sequence[str]
) -> dict[str, dict[str, float]]:
    """Return precision and recall of each class or label, NaN where one would divide by 0.

    Args:
        right: samples of it that were taken for it, `(n,)`.
        taken: all samples that were taken for it; `support`: all that are of it.
        names: n of them.
    """
    columns = {"precision": right / taken, "recall": right / support, "samples": support}
    return by_name(columns, names)


def measure_values(predicted: Tensor, true: Tensor, names: Sequence[str]) -> dict[str, dict[str, float]]:
    """Return how far values `(n, outputs)`, float64, are off, output by output; R² of a constant is NaN.

    torchmetrics' R² squares the values themselves, by which large ones such as Unix seconds lose their digits.
    """
    square, variance = (predicted - true).square().mean(0), true.var(0, correction=0)
    r2 = torch.where(variance > 0, 1 - square / variance, torch.nan)
    return by_name({"R²": r2, "MAE": (predicted - true).abs().mean(0), "RMSE": square.sqrt()}, names)


def by_name(columns: dict[str, Tensor], names: Sequence[str]) -> dict[str, dict[str, float]]:
    """Return columns `(n,)` as a row for each name."""
    rows = zip(*(column.tolist() for column in columns.values()), strict=True)
    return {name: dict(zip(columns, row, strict=True)) for name, row in zip(names, rows, strict=True)}


def tabulate(rows: dict[str, dict[str, float]]) -> str:
    """Return rows as text, below a line with the columns' names."""
    side = max(len(shorten(name)) for name in rows)
    lines = [" " * side + "".join(f"{column:>12}" for column in next(iter(rows.values())))]
    for name, row in rows.items():
        cells = (f"{v:12.5g}" if isfinite(v) else f"{'not defined':>12}" for v in row.values())
        lines.append(f"{shorten(name):<{side}}" + "".join(cells))
    return "\n".join(lines) + "\n"
