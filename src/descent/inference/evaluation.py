"""What a trained run does well and what it does badly: its own metrics, a table and a picture."""

import json
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import redirect_stdout
from copy import deepcopy
from functools import partial
from io import BytesIO, StringIO
from math import ceil, isfinite
from types import SimpleNamespace
from typing import Any

import polars as pl
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
from descent.inference.predictor import Predictor, printable, refuse_misfits
from descent.losses import weigh_classes
from descent.metrics import count_samples
from descent.run.folder import RunFolder, make
from descent.task import IGNORED, Task

REPORT = "_report"  # the name, among the run's metrics, of the one that the report is made from
COUNTS, NAMES, NAME = 20, 60, 24  # most classes whose counts and names are drawn; most letters of a name
POINTS = 2_000  # most points of a scatter plot
STYLE: Any = {
    "svg.fonttype": "none",  # text stays text, in whatever script a name is
    "svg.hashsalt": "descent",  # the same evaluation gives the same file
    "text.parse_math": False,  # a $ in a name is a $
}


def read_split(model: Predictor, split: str) -> Iterable[Any]:
    """Return the batches of a split of a run's own data, in a fixed order and without augmentation.

    Raises:
        ConfigError: the data is no longer what the run has seen.
    """
    run = model.run
    require("data" in run.config, "input", None, "a file, because this folder is without the run's data")
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
    return getattr(data, f"{split}_dataloader")()


def read_file(model: Predictor, path: str) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield batches of a file or folder, scaled; samples without a target are left out.

    Raises:
        ConfigError: it cannot be read, or its targets are not those of the run.
    """
    file, task = NamedPath("input", path), model.task
    classes = task.names if task.kind == "classes" else []
    for inputs, targets in model.reader.read_with_targets(file, classes):
        flat = targets.reshape(len(targets), -1)
        if not classes and flat.shape[1] != len(task.names):
            raise file.error(f"{len(task.names)} target values a sample, not {flat.shape[1]}")
        for rows in flat.isfinite().all(1).nonzero().flatten().split(model.batch_size):
            y = targets[rows] if classes else flat[rows]
            yield model.scaling(inputs[rows]), task.standardise(y) if hasattr(task, "standardise") else y


def evaluate(model: Predictor, batches: Iterable[Any]) -> tuple[dict[str, Any], str, dict[str, str]]:
    """Test a run's module on batches, as `Trainer.test` does after training.

    Returns:
        Plain values, first the run's metrics by name, None where one is not defined; the same as text; and
        pictures as SVG, by the names of their files.

    Raises:
        ConfigError: there are no samples.
    """
    sizes: list[int] = []
    module, precision = build_module(model), model.run.config.get("trainer", {}).get("precision")
    trainer = Trainer(
        accelerator=model.device.type, devices=1, precision=precision, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, inference_mode=False,
    )  # fmt: skip  # `Supervised` tries a batch with gradients
    with redirect_stdout(StringIO()) as said, refuse_misfits(model.run):  # why a metric is not defined
        logged = trainer.test(module, count(batches, sizes), verbose=False)[0]
    require(sum(sizes) > 0, "run", str(model.run.folder), "samples with targets, but there are none")
    metrics = {name.removeprefix("test/"): value for name, value in logged.items() if REPORT not in name}
    shown = ", ".join(f"{n} {f'{v:.4f}' if isfinite(v) else 'not defined'}" for n, v in metrics.items())
    details, table, pictures = report(module, model.task)
    notes = "".join(f"{line}\n" for line in model.reader.notes())
    text = f"{sum(sizes):,} samples: {shown}\n{said.getvalue()}\n{table}{notes}"
    return without_nan({"samples": sum(sizes), **metrics, **details}), text, pictures


def count(batches: Iterable[Any], sizes: list[int]) -> Iterator[Any]:
    """Yield batches that are not empty, and add their sizes to a list."""
    for batch in batches:
        if size := count_samples(batch):
            sizes.append(size)
            yield batch


def build_module(model: Predictor) -> LightningModule:
    """Return the run's module with its weights, its loss, its metrics, and one more for the report."""
    run, task = model.run, model.task
    build = builder({"metrics": {}, **run.config}, run.allowed)
    with refuse_misfits(run):
        weights = weigh_classes(run.config["loss"], SimpleNamespace(**run.data))
        metrics = build("metrics", task=task, **model.sizes) or {}
        module = build(
            "module",
            model=model.model,
            criterion=build("loss", task=task, **weights),
            metrics={**metrics, **choose_report(task)},
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
    """Keeps predicted and true values, `(n, 2, outputs)`."""

    pairs: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.add_state("pairs", [], dist_reduce_fx="cat")

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        self.pairs.append(torch.stack([outputs, targets], 1))

    def compute(self) -> Tensor:
        return torch.cat(self.pairs)


def choose_report(task: Task) -> dict[str, Metric]:
    """Return the metric that collects what the report on a task is made from; none for a task of one's own."""
    kinds: dict[str, Any] = {
        "classes": partial(MulticlassConfusionMatrix, len(task.names), ignore_index=IGNORED),
        "labels": partial(MultilabelConfusionMatrix, len(task.names)),
        "values": Pairs,
    }
    return {REPORT: kinds[task.kind]()} if task.kind in kinds else {}


def report(module: LightningModule, task: Task) -> tuple[dict[str, Any], str, dict[str, str]]:
    """Return what a tested module collected: plain values, a table, and pictures by the names of their files.

    A number that is not defined, such as the precision of a class that was never predicted, is NaN.
    """
    metric = getattr(getattr(module, "test_metrics", None), "metrics", {}).get(REPORT)
    if metric is None:
        return {}, "", {}
    found, names = metric.compute().cpu(), [printable(name) for name in task.names]
    more, pictures = {}, {}
    if task.kind == "values":
        error, true = found[:, 0] - found[:, 1], found[:, 1]
        # torchmetrics squares the values themselves, and large ones such as Unix seconds lose their digits
        square, variance = error.square().mean(0), true.var(0, correction=0)
        r2 = torch.where(variance > 0, 1 - square / variance, torch.nan)
        columns = {"R²": r2, "MAE": error.abs().mean(0), "RMSE": square.sqrt()}
        pictures = {"predicted_against_true.svg": draw(lambda: draw_values(found, names))}
    elif task.kind == "labels":
        right, support = found[:, 1, 1], found[:, 1].sum(1)
        columns = {"precision": right / found[:, :, 1].sum(1), "recall": right / support, "samples": support}
    else:
        right, support = found.diagonal(), found.sum(1)
        columns = {"precision": right / found.sum(0), "recall": right / support, "samples": support}
        more = {"confusion": found.tolist()}
        pictures = {"confusion_matrix.svg": draw(lambda: draw_confusion(metric, names))}
    frame = pl.DataFrame({"": names, **{name: column.numpy() for name, column in columns.items()}})
    form: Any = {"tbl_formatting": "ASCII_MARKDOWN", "tbl_hide_column_data_types": True, "tbl_rows": -1}
    with pl.Config(**form, tbl_hide_dataframe_shape=True, fmt_str_lengths=NAME, tbl_width_chars=-1):
        return {task.kind: frame.to_dicts(), **more}, f"{frame}\n", pictures


def draw(make_figure: Callable[[], Any]) -> str:
    """Return a figure of matplotlib as the text of an SVG file, which browsers and GitHub show."""
    import matplotlib

    stream = BytesIO()
    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about letters that matplotlib's font lacks but a browser has
        make_figure().savefig(stream, format="svg", metadata={"Date": None})
    return stream.getvalue().decode()


def draw_confusion(metric: Any, names: list[str]) -> Any:
    """Have torchmetrics draw a confusion matrix; that of many classes without names and counts."""
    from matplotlib.figure import Figure

    size = min(16.0, max(4.0, 0.6 * len(names)))  # inches
    axes = Figure(figsize=(size, size), layout="constrained").subplots()
    labels = [name[:NAME] for name in names]
    metric.plot(ax=axes, add_text=len(names) <= COUNTS, labels=labels, cmap="Blues")
    if len(names) > NAMES:
        axes.set(xticks=[], yticks=[])
    return axes.figure


def draw_values(found: Tensor, names: list[str]) -> Any:
    """Draw predicted against true values, `(n, 2, outputs)`, a plot for each output."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4, 4 * len(names)), layout="constrained")
    plots = figure.subplots(len(names), squeeze=False).flatten()
    for axes, name, (predicted, true) in zip(
        plots, names, found[:: ceil(len(found) / POINTS)].T, strict=True
    ):
        axes.axline((float(true[0]), float(true[0])), slope=1, color="tab:red")  # where all are right
        axes.scatter(true, predicted, s=9, alpha=0.4, zorder=2)
        axes.set(xlabel=f"true {name[:NAME]}", ylabel=f"predicted {name[:NAME]}")
    return figure
