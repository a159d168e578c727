"""What a trained run does well and badly: metrics, a table and a picture."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from descent.errors import ConfigError
from descent.losses import fit_to_task
from descent.metrics import EpochMetrics, task_metrics
from descent.plots import confusion_picture, residual_picture
from descent.predictor import Predictor, build

CLASSES_SHOWN = 20  # in a confusion matrix as text; the picture and metrics.json have all


def own_split(model: Predictor, split: str, allow: Sequence[str]) -> Iterator[tuple[Tensor, Tensor]]:
    """Normalised inputs and standardised targets of a run's own data, read and split as in training.

    Args:
        model: the run's.
        split: "train", "val" or "test".
        allow: modules of one's own that the data may be of.

    Raises:
        ConfigError: the data is no longer what the run has seen.
    """
    settings = dict(model.config["data"])
    if "path" in settings:  # as it was found from the folder that the run was started in
        settings["path"] = model.held["reader"]["path"]
    data = build("data", settings, allow)
    changed = [name for name, value in data.state_dict().items() if model.held[name] != value]
    if changed:
        raise ConfigError(
            f"run={model.folder}: expected its data as it was in training, but its {', '.join(changed)}"
            " changed; evaluate on a file with input=…"
        )
    loaders = {"train": data.train_dataloader, "val": data.val_dataloader, "test": data.test_dataloader}
    for inputs, targets in loaders[split]():
        raw = not inputs.is_floating_point()
        yield model.normalise(inputs.to(model.input_mean.device)) if raw else inputs, targets


def of_file(model: Predictor, path: str) -> Iterator[tuple[Tensor, Tensor]]:
    """The same of a file or folder that has targets."""
    for inputs, targets in model.reader.read_with_targets(path, f"input={path}", model.classes):
        units = (targets - model.target_mean.cpu()) / model.target_std.cpu()
        normalised = model.normalise(inputs.to(model.input_mean.device))
        yield normalised, units if model.task == "regression" else targets


@torch.inference_mode()
def outputs_of(
    model: Predictor, samples: Iterable[tuple[Tensor, Tensor]], batch_size: int, allow: Sequence[str]
) -> tuple[dict[str, float], Tensor, Tensor]:
    """Metrics as in training, then probabilities or values, and targets, in the data's own units.

    Raises:
        ConfigError: there is not one sample.
    """
    device = model.input_mean.device
    criterion = fit_to_task(build("loss", model.config["loss"], allow), model.task).to(device)
    outputs: list[Tensor] = []
    targets: list[Tensor] = []
    metrics = EpochMetrics(
        task_metrics(model.task, model.held["outputs"]), model.target_mean, model.target_std
    )
    metrics.reset(device)
    for samples_in, samples_out in samples:
        inputs, expected = (t.to(device).split(batch_size) for t in (samples_in, samples_out))
        for x, y in zip(inputs, expected, strict=True):
            output = model.model(x)
            metrics.add(len(outputs), criterion(output, y), output, y)
            outputs.append(model.finish(output).cpu())
            targets.append((y * model.target_std + model.target_mean if y.is_floating_point() else y).cpu())
    if not outputs:
        raise ConfigError(f"run={model.folder}: expected samples with targets, but there are none")
    figures = {name: float(value) for name, value in metrics.compute().items()}
    return figures, torch.cat(outputs), torch.cat(targets)


def report(
    model: Predictor, samples: Iterable[tuple[Tensor, Tensor]], batch_size: int, allow: Sequence[str]
) -> tuple[dict[str, Any], str, str]:
    """Metrics as plain values, and a report as text and as a picture (SVG)."""
    figures, outputs, targets = outputs_of(model, samples, batch_size, allow)
    head = f"{len(targets):,} samples: " + ", ".join(f"{name} {value:.4f}" for name, value in figures.items())
    if model.task == "classification":
        details, text, picture = report_classes(outputs, targets, model.classes)
    else:
        details, text, picture = report_values(outputs, targets, model.target_names)
    return {"samples": len(targets), **figures, **details}, f"{head}\n\n{text}\n", picture


def report_classes(outputs: Tensor, targets: Tensor, classes: list[str]) -> tuple[dict[str, Any], str, str]:
    """Precision, recall and F1 of each class, and the confusion matrix: a row a true class."""
    from sklearn.metrics import classification_report, confusion_matrix

    labels, predicted, expected = list(range(len(classes))), outputs.argmax(1).numpy(), targets.numpy()
    arguments = {"labels": labels, "target_names": classes, "zero_division": 0}
    text = classification_report(expected, predicted, digits=4, **arguments)
    by_class = classification_report(expected, predicted, output_dict=True, **arguments)
    matrix = confusion_matrix(expected, predicted, labels=labels).tolist()
    text += "\n" + confusion_text(matrix, classes)
    return {"classes": by_class, "confusion": matrix}, text, confusion_picture(matrix, classes)


def confusion_text(matrix: list[list[int]], classes: list[str]) -> str:
    if len(classes) > CLASSES_SHOWN:
        pairs = [(n, a, b) for a, row in enumerate(matrix) for b, n in enumerate(row) if a != b and n]
        lines = [
            f"{n:>7,}  {classes[a]} taken for {classes[b]}" for n, a, b in sorted(pairs, reverse=True)[:20]
        ]
        return "Most frequent confusions\n" + "\n".join(lines or ["none"])
    width = max(6, *(len(f"{n:,}") + 1 for row in matrix for n in row))
    side = max(len(name) for name in classes) + 2
    lines = ["Confusion: a row a true class, a column a predicted one, in the same order"]
    lines += [
        f"{name:<{side}}" + "".join(f"{n:>{width},}" for n in row)
        for name, row in zip(classes, matrix, strict=True)
    ]
    return "\n".join(lines)


def report_values(outputs: Tensor, targets: Tensor, names: list[str]) -> tuple[dict[str, Any], str, str]:
    """How far off the values are, target by target: residuals are predicted minus true."""
    residuals = outputs - targets
    columns = ("MAE", "RMSE", "R²", "bias", "5 %", "median", "95 %")
    side = max(6, *(len(name) for name in names)) + 2
    lines = [" " * side + "".join(f"{column:>12}" for column in columns)]
    details = {}
    for name, residual, target in zip(names, residuals.double().T, targets.double().T, strict=True):
        r2 = 1 - residual.square().sum() / (target - target.mean()).square().sum()
        quantiles = residual.quantile(torch.tensor([0.05, 0.5, 0.95], dtype=torch.float64))
        values = [residual.abs().mean(), residual.square().mean().sqrt(), r2, residual.mean(), *quantiles]
        details[name] = {column: float(value) for column, value in zip(columns, values, strict=True)}
        lines.append(f"{name:<{side}}" + "".join(f"{value:>12.5g}" for value in details[name].values()))
    lines.append("bias and quantiles are of the residuals, predicted minus true")
    return {"targets": details}, "\n".join(lines), residual_picture(outputs, targets, names)
