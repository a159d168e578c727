"""What a trained run does well and what it does badly: its metrics, a table and a plot."""

import json
from collections.abc import Iterable, Iterator, Sequence
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from descent.data.module import DataModule
from descent.data.named_path import NamedPath
from descent.errors import ConfigError, blame, require
from descent.inference.plots import plot_confusion, plot_values, shorten
from descent.inference.predictor import Predictor
from descent.losses import adapt, size_loss
from descent.metrics import size_metrics
from descent.run.folder import RunFolder, make
from descent.run.initial_weights import like_that_of
from descent.run.trust import build

CLASSES_SHOWN = 20  # most classes of a confusion matrix as text; the plot and metrics.json have all


def read_own_split(model: Predictor, split: str, allow: Sequence[str]) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield scaled inputs and scaled targets of a run's own data, read and split as in training.

    Args:
        model: of the run.
        split: "train", "val" or "test".
        allow: modules of your own that the data may come from.

    Raises:
        ConfigError: the data is no longer what the run has seen.
    """
    node = dict(model.run.config["data"])
    if "path" in node:  # the absolute path, because the run may have started in another folder
        node["path"] = model.run.data["reader"].get("path", node["path"])
    started = model.run.config.get("init_from") is not None  # then another run's rules hold for the data
    like = like_that_of(model.run, model.folder) if started else {}
    data = build("data", node, allow, **like)
    require(isinstance(data, DataModule), "data", node.get("_target_"), "something that builds a DataModule")
    changed = data.tell_changes(model.run.data)
    if not changed and not same_scaling(model, data):
        changed = "numbers have another mean or deviation"
    if changed:
        expected = f"its data as it was in training, but {changed}; evaluate on a file with input=…"
        raise ConfigError("run", model.folder, expected=expected)
    loaders = {"train": data.train_dataloader, "val": data.val_dataloader, "test": data.test_dataloader}
    yield from loaders[split]()


def same_scaling(model: Predictor, data: DataModule) -> bool:
    """Whether data has its mean and deviation of training, up to the rounding of another machine."""
    now, before = data.scaling.state_dict(), model.scaling.state_dict()
    return all(
        now[name].shape == old.shape and torch.allclose(now[name].to(old), old, rtol=1e-4)
        for name, old in before.items()
    )


def read_file(model: Predictor, path: str) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield scaled inputs and scaled targets of a file or folder; samples without a target are left out.

    Raises:
        ConfigError: it cannot be read, or its targets are not those of the run.
    """
    file, outputs = NamedPath("input", path), len(model.names)
    for inputs, targets in model.reader.read_with_targets(file, model.classes):
        known = torch.ones(len(targets), dtype=torch.bool)
        if not model.classes:
            if targets.shape[1:] != (outputs,):
                raise file.error(f"{outputs} target values a sample, not {tuple(targets.shape[1:])}")
            known = targets.isfinite().all(1)
        scaled = model.scaling.scale_targets(targets[known].to(model.device))
        yield model.scaling.scale(inputs[known].to(model.device)), scaled


def measure(
    model: Predictor, samples: Iterable[tuple[Tensor, Tensor]], batch_size: int, allow: Sequence[str]
) -> tuple[dict[str, float], Tensor, Tensor]:
    """Return the loss and the metrics of a run by name, then outputs and targets in the data's own units.

    Args:
        model: of the run.
        samples: blocks of scaled inputs and scaled targets.
        batch_size: samples that go through the network at once.
        allow: modules of your own that the loss and the metrics may come from.

    Raises:
        ConfigError: there are no samples, or too few for one of the metrics.
    """
    module = build_module(model, allow)
    metrics, scaling = module.test_metrics, model.scaling
    metrics.reset(model.device)
    outputs: list[Tensor] = []
    targets: list[Tensor] = []
    with torch.inference_mode():
        for block, expected in samples:
            pairs = zip(block.split(batch_size), expected.split(batch_size), strict=True)
            for x, y in ((x.to(scaling.input_mean), y.to(model.device)) for x, y in pairs if len(x)):
                output = module.model(x)
                metrics.add(len(outputs), module.compute_loss(x, output, y), output, y)
                outputs.append(scaling.unscale(output).cpu())
                targets.append((scaling.unscale_values(y) if y.is_floating_point() else y).cpu())
    require(bool(outputs), "run", model.folder, "samples with targets, but there are none")
    with blame("metrics"):
        figures = {name: float(value) for name, value in metrics.compute().items()}
    return figures, torch.cat(outputs), torch.cat(targets)


def build_module(model: Predictor, allow: Sequence[str]) -> Any:
    """Return the run's LightningModule, with its loss, the loss's weights of classes, and its metrics."""
    config, task, outputs = model.run.config, model.task, len(model.names)
    weights = size_loss(config["loss"], task, model.run.data["class_counts"])
    criterion = adapt(build("loss", {**config["loss"], **weights}, allow), task, outputs)
    chosen = build("metrics", config.get("metrics", {}), allow)
    require(isinstance(chosen, dict), "metrics", config.get("metrics"), "metrics, each with its name")
    metrics = size_metrics(chosen, task, outputs)
    parts = {"model": model.model, "criterion": criterion, "metrics": metrics, "scaling": model.scaling}
    module = build("module", config["module"], allow, **parts, optimizer=None, schedule=None)
    require(isinstance(module, nn.Module), "module", config["module"], "a module, by its _target_")
    with blame("run"):
        module.load_state_dict(model.run.checkpoint["state_dict"])
    return module.eval().to(model.device, model.scaling.input_mean.dtype)


def report(
    model: Predictor, samples: Iterable[tuple[Tensor, Tensor]], batch_size: int, allow: Sequence[str]
) -> tuple[dict[str, Any], str, str]:
    """Return metrics as plain values, a report as text, and a plot as SVG; see `measure`."""
    figures, outputs, targets = measure(model, samples, batch_size, allow)
    head = f"{len(targets):,} samples: " + ", ".join(f"{name} {value:.4f}" for name, value in figures.items())
    if model.classes:
        details, text = report_classes(outputs.argmax(1), targets, model.classes)
        plot = plot_confusion(details["confusion"], model.classes)
    else:
        details, text = report_values(outputs, targets, model.names)
        plot = plot_values(outputs, targets, model.names)
    values = {"samples": len(targets), **{n: to_json(v) for n, v in figures.items()}, **details}
    return values, f"{head}\n\n{text}\n", plot


def write_report(run: str, values: dict[str, Any], text: str, plot: str) -> RunFolder:
    """Write what `report` returned into a new folder within the run's, all at once; return that folder."""
    metrics = json.dumps(values, indent=2, ensure_ascii=False) + "\n"
    texts = {"metrics.json": metrics, "report.txt": text, "plot.svg": plot}
    evaluation = RunFolder(RunFolder(Path(run).expanduser()).evaluation)
    return make(evaluation, lambda folder: {folder.path / name: file for name, file in texts.items()})


def report_classes(predicted: Tensor, expected: Tensor, names: list[str]) -> tuple[dict[str, Any], str]:
    """Return precision, recall and F1 of each class, their means, and the confusion matrix, also as text.

    Precision is the share of the samples predicted as a class that belong to it, recall the share of a
    class's samples that are predicted as it, F1 their harmonic mean; each is 0 where it would divide by 0.

    Args:
        predicted, expected: class indices, int64 `(n,)`.
        names: of the classes.
    """
    count = len(names)
    matrix = torch.bincount(expected * count + predicted, minlength=count**2).reshape(count, count)
    right, support, taken = matrix.diagonal().double(), matrix.sum(1), matrix.sum(0)
    precision, recall = right / taken.clamp(min=1), right / support.clamp(min=1)
    f1 = 2 * right / (taken + support).clamp(min=1)
    table = torch.stack([precision, recall, f1], 1)
    means = {"macro avg": table.mean(0), "weighted avg": support.double() @ table / len(expected)}
    accuracy = float(right.sum()) / len(expected)

    columns = ("precision", "recall", "f1-score", "support")
    side = max(12, *(len(shorten(name)) for name in names))
    lines = [f"{'':>{side}} " + "".join(f"{column:>10}" for column in columns), ""]
    rows = [*zip(names, table, support.tolist(), strict=True)]
    rows += [(name, values, len(expected)) for name, values in means.items()]
    shown = [
        f"{shorten(name):>{side}} " + "".join(f"{value:>10.4f}" for value in values) + f"{n:>10}"
        for name, values, n in rows
    ]
    shown[count:count] = ["", f"{'accuracy':>{side}} {accuracy:>30.4f}{len(expected):>10}"]
    lines += [*shown, "", show_confusion(matrix, names)]
    by_name = [(n, dict(zip(columns, [*values.tolist(), total], strict=True))) for n, values, total in rows]
    details = {
        "classes": dict(by_name[:count]),
        "averages": {"accuracy": accuracy, **dict(by_name[count:])},
        "confusion": matrix.tolist(),
    }
    return details, "\n".join(lines)


def show_confusion(matrix: Tensor, names: list[str]) -> str:
    """Return the confusion matrix as text, or for many classes the most frequent confusions."""
    shown, size = [shorten(name) for name in names], len(names)
    if size > CLASSES_SHOWN:
        wrong = matrix - matrix.diagonal().diag()
        counts, places = (values.tolist() for values in wrong.flatten().topk(20))
        lines = [
            f"{count:>7,}  {shown[place // size]} taken for {shown[place % size]}"
            for count, place in zip(counts, places, strict=True)
            if count
        ]
        return "Most frequent confusions\n" + "\n".join(lines or ["none"])
    width, side = max(6, len(f"{int(matrix.max()):,}") + 1), max(map(len, shown)) + 2
    lines = ["Confusion: a row a true class, a column a predicted one, in the same order"]
    for name, row in zip(shown, matrix.tolist(), strict=True):
        lines.append(f"{name:<{side}}" + "".join(f"{n:>{width},}" for n in row))
    return "\n".join(lines)


def report_values(outputs: Tensor, targets: Tensor, names: list[str]) -> tuple[dict[str, Any], str]:
    """Return how far values `(n, targets)` are off, target by target, also as text."""
    columns = ("MAE", "RMSE", "R²", "bias", "5 %", "median", "95 %")
    side = max(6, *(len(shorten(name)) for name in names)) + 2
    lines = [" " * side + "".join(f"{column:>12}" for column in columns)]
    details = {}
    for name, output, target in zip(names, outputs.double().T, targets.double().T, strict=True):
        residual = output - target
        r2 = 1 - residual.square().sum() / (target - target.mean()).square().sum()
        quantiles = np.quantile(residual.numpy(), [0.05, 0.5, 0.95])  # torch's takes at most 2^24 values
        values = [residual.abs().mean(), residual.square().mean().sqrt(), r2, residual.mean(), *quantiles]
        details[name] = {column: to_json(float(value)) for column, value in zip(columns, values, strict=True)}
        lines.append(f"{shorten(name):<{side}}" + "".join(f"{value:>12.5g}" for value in values))
    lines.append("bias and quantiles are of the residuals, predicted minus true")
    return {"targets": details}, "\n".join(lines)


def to_json(value: float) -> float | None:
    """Return a number that JSON can hold: None for NaN, such as the R² of targets that are all alike."""
    return value if isfinite(value) else None
