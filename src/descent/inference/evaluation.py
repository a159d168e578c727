"""Reports what a trained run does well and badly: its own metrics, a table and a picture."""

import warnings
from collections.abc import Iterable, Iterator
from contextlib import redirect_stdout
from copy import deepcopy
from io import StringIO
from math import isfinite
from types import SimpleNamespace
from typing import Any

import polars as pl
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torchmetrics import CatMetric
from torchmetrics.classification import MulticlassConfusionMatrix, MultilabelConfusionMatrix

from descent.build import build_node, builder
from descent.callbacks.insight import draw_values
from descent.data.named_path import NamedPath
from descent.data.samples import FromSamples
from descent.errors import blame, require
from descent.inference.output import printable, to_json
from descent.inference.predictor import Predictor, refuse_misfits
from descent.losses import weigh_classes
from descent.metrics import count_samples
from descent.run.folder import RunFolder, make
from descent.task import IGNORED

REPORT = "_report"  # the name, among the run's metrics, of the one behind the report
PICTURES = {"classes": "confusion_matrix.svg", "values": "predicted_against_true.svg"}
COUNTS, POINTS = 20, 2_000  # maximum classes to draw with counts, and maximum points
NAME = 24  # maximum characters of a name


def read_split(model: Predictor, split: str) -> Iterable[Any]:
    """Return the batches of a split of a run's own data, in a fixed order and without augmentation."""
    run, node = model.run, dict(model.run.config["data"] or {})
    require(bool(node), "input", None, "a file, because this folder does not contain the run's data")
    if "path" in node:  # absolute, because the run may have started in another folder
        node["path"] = run.data["reader"].get("path", node["path"])
    if "eval_batch_size" in node:
        node["eval_batch_size"] = model.batch_size
    # read by the run's own rules, so that another machine's rounding is not a change
    data = build_node("data", node, {"like": run.like()}, run.allowed)
    data.prepare_data()
    data.setup("test" if split == "test" else "fit")
    for name, now in data.describe().items():
        expected = f"the data as it was in training, but its {name} has changed; input=… takes any file"
        require(run.data.get(name) == now, "run", str(run.folder), expected)
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
        require(fits, "input", path, f"{len(task.names)} target values per sample, not {flat.shape[1]}")
        known = flat.isfinite().all(1).nonzero().flatten()
        for rows in known.split(model.batch_size) if len(known) else ():
            y = targets[rows] if classes else flat[rows]
            yield model.scaling(inputs[rows]), task.standardise(y) if hasattr(task, "standardise") else y


def evaluate(model: Predictor, batches: Iterable[Any], key: str, title: str) -> str:
    """Test a run's module as training does, write a report to its folder, and return the report.

    `key` names what the batches come from, in errors.
    """
    sizes: list[int] = []  # of the batches
    module, precision = build_module(model), model.run.config.get("trainer", {}).get("precision")
    trainer = Trainer(
        accelerator=model.device.type, devices=1, precision=precision, inference_mode=False, logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip  # `Supervised` tries a batch with gradients
    with redirect_stdout(StringIO()) as said, blame(key):  # why a metric is undefined
        logged = trainer.test(module, count(batches, sizes), verbose=False)[0]
    metrics = {name.removeprefix("test/"): value for name, value in logged.items() if REPORT not in name}
    shown = ", ".join(f"{n} {f'{v:.4f}' if isfinite(v) else 'not defined'}" for n, v in metrics.items())
    details, table, pictures = report(module, model)
    lines = [title, "", f"{sum(sizes):,} samples: {shown}", said.getvalue(), table, *model.reader.notes()]
    values, text = {"samples": sum(sizes), **metrics, **details}, printable("\n".join(lines))
    texts = {"metrics.json": to_json(values), "report.txt": f"{text}\n", **pictures}
    folder = RunFolder(model.run.folder.evaluation)
    folder = make(folder, lambda folder: {folder.path / name: text for name, text in texts.items()})
    return f"{text}\nWritten to {folder}: {', '.join(texts)}"


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
        metrics = build("metrics", task=task, **model.sizes) or {}
        if task.kind == "classes":
            metrics[REPORT] = MulticlassConfusionMatrix(n, ignore_index=IGNORED, validate_args=False)
        elif task.kind == "labels":
            metrics[REPORT] = MultilabelConfusionMatrix(n, validate_args=False)
        elif task.kind == "values":
            metrics[REPORT] = Pairs("disable")
        weights = weigh_classes(run.config["loss"], SimpleNamespace(**run.data))
        criterion = build("loss", task=task, **weights)
        # the trainer moves the copies to its device
        own = {"model": model.model, "task": deepcopy(task), "scaling": deepcopy(model.scaling)}
        module = build("module", criterion=criterion, metrics=metrics, optimizer=None, **own)
        module.load_state_dict(run.checkpoint["state_dict"])
    return module


class Pairs(CatMetric):
    """Collects predicted and true values, `(n, 2, outputs)`."""

    def update(self, outputs: Tensor, targets: Tensor) -> None:  # type: ignore[override]
        super().update(torch.stack([outputs, targets], 1))


def report(module: LightningModule, model: Predictor) -> tuple[dict[str, Any], str, dict[str, str]]:
    """Return what a tested module collected: values, NaN if undefined; a table; and pictures."""
    metric = getattr(getattr(module, "test_metrics", None), "metrics", {}).get(REPORT)
    if metric is None:  # a task or module about which nothing more is known
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
    """Return, as SVG, a confusion matrix, or a plot of predicted against true values."""
    import matplotlib
    from matplotlib.figure import Figure

    stream, labels, n = StringIO(), [name[:NAME] for name in names], len(names)
    # keep text as text, files reproducible, and a $ in a name a $
    style: Any = {"svg.fonttype": "none", "svg.hashsalt": "descent", "text.parse_math": False}
    with matplotlib.rc_context(style), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about characters that matplotlib's font lacks but a browser has
        if isinstance(metric, Pairs):
            predicted, true = found[:: 1 + len(found) // POINTS].unbind(1)
            figure = draw_values(predicted, true, labels)
        else:
            side = min(16.0, max(4.0, 0.6 * n))
            figure = Figure(figsize=(side, side), layout="constrained")
            metric.plot(found.long(), figure.subplots(), n <= COUNTS, labels=labels)
        figure.savefig(stream, format="svg", metadata={"Date": None})
    return stream.getvalue()
