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
from descent.callbacks.insight import draw_confusion, draw_values
from descent.data.like import compare_data
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
POINTS, NAME = 2_000, 24  # most points to draw, and most characters of a name


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
    changed = compare_data(data.describe(), run.data)
    require(not changed, "run", str(run.folder), f"the data as in training, or input=… ({changed})")
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
        for rows in flat.isfinite().all(1).nonzero().flatten().split(model.batch_size):
            if len(rows):
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
    folder = make(RunFolder(model.run.folder.evaluation), lambda f: {f.path / n: t for n, t in texts.items()})
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
            metrics[REPORT] = Pairs()
        weights = weigh_classes(run.config["loss"], SimpleNamespace(**run.data))
        criterion = build("loss", task=task, **weights)
        # the trainer moves the copies to its device
        own = {"model": model.model, "task": deepcopy(task), "scaling": deepcopy(model.scaling)}
        module = build("module", criterion=criterion, metrics=metrics, optimizer=None, **own)
        module.load_state_dict(run.checkpoint["state_dict"])
    return module


class Pairs(CatMetric):
    """Collects predicted and true values, `(n, 2, outputs)`, in their own precision."""

    def update(self, outputs: Tensor, targets: Tensor) -> None:  # type: ignore[override]
        self.value.append(torch.stack([outputs, targets], 1))  # type: ignore[attr-defined]


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
    details: dict[str, Any] = {kind: {row.pop(kind): row for row in frame.to_dicts()}}
    if kind == "classes":
        details["confusion"] = found.long().tolist()
    return details, table, {PICTURES[kind]: draw(found, model.names)} if kind in PICTURES else {}


def draw(found: Tensor, names: list[str]) -> str:
    """Return, as SVG, a confusion matrix, or a plot of predicted against true values `(n, 2, outputs)`."""
    import matplotlib

    stream, labels = StringIO(), [name[:NAME] for name in names]
    # keep text as text, files reproducible, and a $ in a name a $
    style: Any = {"svg.fonttype": "none", "svg.hashsalt": "descent", "text.parse_math": False}
    with matplotlib.rc_context(style), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about characters that matplotlib's font lacks but a browser has
        if found.dim() == 3:
            predicted, true = found[:: 1 + len(found) // POINTS].unbind(1)
            figure = draw_values(predicted, true, labels)
        else:
            figure = draw_confusion(found.long(), labels)
        figure.savefig(stream, format="svg", metadata={"Date": None})
    return stream.getvalue()
