"""Reports what a trained run does well and badly: its own metrics, a table and a picture."""

import warnings
from collections.abc import Iterable, Iterator
from contextlib import redirect_stdout
from copy import deepcopy
from io import BytesIO, StringIO
from math import ceil, isfinite
from types import SimpleNamespace
from typing import Any

import polars as pl
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torchmetrics import CatMetric
from torchmetrics.classification import MulticlassConfusionMatrix, MultilabelConfusionMatrix

from descent.build import build_node, builder
from descent.data.named_path import NamedPath
from descent.data.samples import FromSamples
from descent.errors import ConfigError, blame, require
from descent.inference.output import printable, to_json
from descent.inference.predictor import Predictor, refuse_misfits
from descent.losses import weigh_classes
from descent.metrics import count_samples
from descent.run.folder import RunFolder, make
from descent.task import IGNORED

REPORT = "_report"  # the name, among the run's metrics, of the one behind the report
PICTURES = {"classes": "confusion_matrix.svg", "values": "predicted_against_true.svg"}
COUNTS, NAMES, POINTS = 20, 60, 2_000  # maximum classes to draw with counts, and with names; maximum points
NAME = 24  # maximum characters of a name


def read_split(model: Predictor, split: str) -> Iterable[Any]:
    """Return the batches of a split of a run's own data, in a fixed order and without augmentation."""
    run = model.run
    require(bool(run.config["data"]), "input", None, "a file, because this folder is without the run's data")
    node = dict(run.config["data"])
    if "path" in node:  # absolute, because the run may have started in another folder
        node["path"] = run.data["reader"].get("path", node["path"])
    if "eval_batch_size" in node:
        node["eval_batch_size"] = model.batch_size
    # read by the run's own rules, so that another machine's rounding is not a change
    data = build_node("data", node, {"like": run.like()}, run.allowed)
    data.prepare_data()
    data.setup("test" if split == "test" else "fit")
    if changed := [name for name, now in data.describe().items() if run.data.get(name) != now]:
        expected = f"its data as it was in training, but it has another {changed[0]}; input=… takes any file"
        raise ConfigError("run", str(run.folder), expected=expected)
    if split == "train" and isinstance(data, FromSamples):
        data.rows["val"], split = data.rows["train"], "val"
    return getattr(data, f"{split}_dataloader")()


def read_file(model: Predictor, path: str) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield scaled batches of a file or folder; samples without a target are left out."""
    task: Any = model.task
    classes = task.names if task.kind == "classes" else []
    for inputs, targets in model.reader.read_with_targets(NamedPath("input", path), classes):
        flat = targets.reshape(len(targets), -1)
        fits = bool(classes) or flat.shape[1] == len(task.names)
        require(fits, "input", path, f"{len(task.names)} target values a sample, not {flat.shape[1]}")
        known = flat.isfinite().all(1).nonzero().flatten()
        for rows in known.split(model.batch_size) if len(known) else ():
            y = targets[rows] if classes else flat[rows]
            yield model.scaling(inputs[rows]), task.standardise(y) if hasattr(task, "standardise") else y


def evaluate(model: Predictor, batches: Iterable[Any], title: str) -> tuple[dict[str, Any], str]:
    """Test a run's module as training does, write a report to its folder, and return values and text."""
    sizes: list[int] = []  # of the batches
    module, precision = build_module(model), model.run.config.get("trainer", {}).get("precision")
    trainer = Trainer(
        accelerator=model.device.type, devices=1, precision=precision, inference_mode=False, logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip  # `Supervised` tries a batch with gradients
    with redirect_stdout(StringIO()) as said, blame("run"):  # why a metric is undefined
        logged = trainer.test(module, count(batches, sizes), verbose=False)[0]
    metrics = {name.removeprefix("test/"): value for name, value in logged.items() if REPORT not in name}
    shown = ", ".join(f"{n} {f'{v:.4f}' if isfinite(v) else 'not defined'}" for n, v in metrics.items())
    details, table, pictures = report(module, model)
    lines = [title, "", f"{sum(sizes):,} samples: {shown}", said.getvalue(), table, *model.reader.notes()]
    values, text = {"samples": sum(sizes), **metrics, **details}, printable("\n".join(lines))
    texts = {"metrics.json": to_json(values), "report.txt": f"{text}\n", **pictures}
    folder = RunFolder(model.run.folder.evaluation)
    folder = make(folder, lambda folder: {folder.path / name: text for name, text in texts.items()})
    return values, f"{text}\nWritten to {folder}: {', '.join(texts)}"


def count(batches: Iterable[Any], sizes: list[int]) -> Iterator[Any]:
    """Yield batches, and add their sizes to a list."""
    for batch in batches:
        sizes.append(count_samples(batch))
        yield batch
    require(bool(sizes), "input", "…", "samples with targets, but there are none")


def build_module(model: Predictor) -> LightningModule:
    """Return the run's module with its weights, loss and metrics, and one more metric for the report."""
    run, task, n = model.run, model.task, len(model.names)
    build = builder({"metrics": {}, **run.config}, run.allowed)
    with refuse_misfits(run):
        reports = {
            "classes": MulticlassConfusionMatrix(n, ignore_index=IGNORED, validate_args=False),
            "labels": MultilabelConfusionMatrix(n, validate_args=False),
            "values": Pairs("disable"),
        }
        metrics = build("metrics", task=task, **model.sizes) or {}
        weights = weigh_classes(run.config["loss"], SimpleNamespace(**run.data))
        module = build(
            "module",
            model=model.model,
            criterion=build("loss", task=task, **weights),
            metrics={**metrics, **({REPORT: reports[task.kind]} if task.kind in reports else {})},
            task=deepcopy(task),  # the trainer moves its copy to the device
            scaling=deepcopy(model.scaling),
            optimizer=None,
        )
        module.load_state_dict(run.checkpoint["state_dict"])
    return module


class Pairs(CatMetric):
    """Collects predicted and true values, `(n, 2, outputs)`."""

    def update(self, outputs: Tensor, targets: Tensor) -> None:  # type: ignore[override]
        super().update(torch.stack([outputs, targets], 1))


def report(module: LightningModule, model: Predictor) -> tuple[dict[str, Any], str, dict[str, str]]:
    """Return what a tested module collected: values, NaN if undefined; a table; and pictures."""
    metric = getattr(getattr(module, "test_metrics", None), "metrics", {}).get(REPORT)
    if metric is None:  # a task or module of which no more is known
        return {}, "", {}
    found, kind = metric.compute().cpu(), model.task.kind
    if kind == "values":
        error, true = found[:, 0] - found[:, 1], found[:, 1]
        # torchmetrics squares the raw values, and large ones such as Unix times lose digits
        square, variance = error.square().mean(0), true.var(0, correction=0)
        r2 = torch.where(variance > 0, 1 - square / variance, torch.nan)
        columns = {"R²": r2, "MAE": error.abs().mean(0), "RMSE": square.sqrt()}
    else:  # a matrix of true and predicted classes, or one per label
        right, taken, samples = found.diagonal(), found.sum(0), found.sum(1)
        if kind == "labels":
            right, taken, samples = found[:, 1, 1], found[:, :, 1].sum(1), found[:, 1].sum(1)
        columns = {"precision": right / taken, "recall": right / samples, "samples": samples.long()}
    frame = pl.DataFrame({kind: model.names, **{name: value.numpy() for name, value in columns.items()}})
    form: Any = {"tbl_formatting": "ASCII_MARKDOWN", "tbl_hide_column_data_types": True, "tbl_rows": -1}
    with pl.Config(**form, tbl_hide_dataframe_shape=True, fmt_str_lengths=NAME, tbl_width_chars=-1):
        table = f"{frame}\n"
    pictures = {PICTURES[kind]: draw(metric, found, model.names)} if kind in PICTURES else {}
    more = {"confusion": found.long().tolist()} if kind == "classes" else {}
    return {kind: {row.pop(kind): row for row in frame.to_dicts()}, **more}, table, pictures


def draw(metric: Any, found: Tensor, names: list[str]) -> str:
    """Return, as SVG, a confusion matrix, or a plot of predicted against true values for each output."""
    import matplotlib
    from matplotlib.figure import Figure

    stream, labels, size = BytesIO(), [name[:NAME] for name in names], min(16.0, max(4.0, 0.6 * len(names)))
    # keep text as text, files reproducible, and a $ in a name a $
    style: Any = {"svg.fonttype": "none", "svg.hashsalt": "descent", "text.parse_math": False}
    with matplotlib.rc_context(style), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about characters that matplotlib's font lacks but a browser has
        if isinstance(metric, Pairs):
            figure = Figure(figsize=(4, 4 * len(names)), layout="constrained")
            for place, (predicted, true) in enumerate(found[:: ceil(len(found) / POINTS)].movedim(2, 0).mT):
                axes = figure.add_subplot(len(names), 1, place + 1)
                axes.axline((float(true[0]),) * 2, slope=1, color="tab:red")  # where predictions are right
                axes.scatter(true, predicted, s=9, alpha=0.4, zorder=2)
                axes.set(xlabel=f"true {labels[place]}", ylabel=f"predicted {labels[place]}")
        else:
            figure = Figure(figsize=(size, size), layout="constrained")
            axes = figure.subplots()
            metric.plot(found.long(), ax=axes, add_text=len(names) <= COUNTS, labels=labels, cmap="Blues")
            if len(names) > NAMES:
                axes.set(xticks=[], yticks=[])
        figure.savefig(stream, format="svg", metadata={"Date": None})
    return stream.getvalue().decode()
