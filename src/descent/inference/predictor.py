"""A trained run, ready to use: `load("logs/houses").predict("new.csv")`, in plain Python, without Hydra."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from descent.build import build_node, locate
from descent.data.arrays import require_finite
from descent.data.named_path import NamedPath
from descent.data.scaling import Scaling
from descent.errors import ConfigError, require
from descent.run.saved import SavedRun, read_run
from descent.run.trust import list_allowed
from descent.task import Task

if TYPE_CHECKING:  # half a second of import that only those who read files pay for
    import polars as pl

READERS = {  # imported by name, so that each room can be taken out
    "array": "descent.data.arrays.ArrayReader",
    "images": "descent.images.reader.ImageReader",
    "table": "descent.table.reader.TableReader",
}
UNITS = {"classes": "probabilities", "labels": "probabilities", "values": "values in their own units"}


class Predictor(nn.Module):
    """The whole model of a run: from what a file contains to what a person reads.

    Args:
        run: the config and the checkpoint that all else is from.
        model: the network.
        scaling: from raw inputs to those of the network.
        task: what the network's outputs mean.
        reader: from files to raw inputs, as in training.
    """

    batch_size = 1024  # samples that go through the network at once

    def __init__(self, run: SavedRun, model: nn.Module, scaling: Scaling, task: Task, reader: Any) -> None:
        super().__init__()
        self.run, self.model, self.scaling, self.task, self.reader = run, model, scaling, task, reader
        self.examples, self.names = run.data["examples"], [printable(name) for name in task.names]
        self.sizes = find_sizes(run, task)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return probabilities, or values in their own units, for raw inputs `(batch, …)`."""
        return self.task.predict(self.model(self.scaling(inputs)))

    @property
    def device(self) -> torch.device:
        """Return where the network is; scaling and task stay on the CPU, because some devices lack float64."""
        return next(self.model.parameters(), self.scaling.mean).device

    @torch.inference_mode()
    def predict_blocks(self, source: Any, keep: Sequence[str] = ()) -> Iterator[pl.DataFrame]:
        """Yield predictions for the rows of a file, or the images of a folder, in order, in constant memory.

        Args:
            source: a file or folder of the kind that the run learned from; or, in its place, an array of raw
                inputs `(n, …)`, or for a table a frame of polars or pandas.
            keep: columns of the file to copy. Of images, "file" is always copied.

        Yields:
            Frames of the kept columns and of what the task predicts: for classes `predicted_<target>` and the
            probability `p(<class>)` of each, for labels `p(<label>)`, for values `predicted_<value>`, float64.
            A source without rows gives one frame without rows.

        Raises:
            ConfigError: the source cannot be read, a column is missing, or the model gives NaN or infinity.
        """
        import polars as pl

        rows = None
        for rows, inputs in self._read(source):
            batches = inputs.split(self.batch_size)
            answers = [self.model(self.scaling(batch).to(self.device)).cpu() for batch in batches]
            outputs = torch.cat([self.task.predict(answer) for answer in answers])
            if not bool(outputs.isfinite().all()):
                expected = "values for which the model gives numbers, not NaN"
                raise ConfigError("input", name_source(source), expected=expected)
            yield self._frame(rows, keep, outputs)
        if rows is None:
            yield self._frame(pl.DataFrame({n: [] for n in keep}), keep, self(self.examples[:1]).cpu()[:0])

    def predict(self, source: Any, keep: Sequence[str] = ()) -> pl.DataFrame:
        """Return what `predict_blocks` yields, as one frame."""
        import polars as pl

        return pl.concat(list(self.predict_blocks(source, keep)))

    def _read(self, source: Any) -> Iterator[tuple[pl.DataFrame, Tensor]]:
        """Yield blocks of rows and their raw inputs."""
        import polars as pl

        file = NamedPath("input", name_source(source))
        if isinstance(source, str | Path):
            yield from self.reader.read(file)
        elif hasattr(source, "columns"):
            if not hasattr(self.reader, "read_frame"):
                raise file.error("an array or a path, because this run did not learn from a table")
            if not isinstance(source, pl.DataFrame):  # polars itself would need pyarrow for one of pandas
                plain = source.astype(object).where(source.notna(), None)
                source = pl.DataFrame({str(name): plain[name].to_list() for name in plain}, strict=False)
            yield self.reader.read_frame(source)
        else:
            shape, inputs = self.examples.shape[1:], torch.as_tensor(source)
            if inputs.shape[1:] != shape:
                raise file.error(f"samples of shape {tuple(shape)}, like those that the run learned from")
            require_finite(inputs, file)
            yield pl.DataFrame(), inputs

    def _frame(self, rows: pl.DataFrame, keep: Sequence[str], outputs: Tensor) -> pl.DataFrame:
        """Put the kept columns and the predictions beside each other."""
        import polars as pl

        columns = self._name_columns(outputs)
        if self.run.data["reader"]["kind"] == "images" and rows.columns:
            keep = list(dict.fromkeys(["file", *keep]))
        for name in keep:
            if name not in rows.columns:
                raise ConfigError("keep", name, expected="a column of the input", choices=rows.columns)
            require(name not in columns, "keep", name, "a column that no prediction is called by")
        return pl.DataFrame({name: rows[name] for name in keep} | columns)

    def _name_columns(self, outputs: Tensor) -> dict[str, Any]:
        """Return predictions as columns; this alone, and the reports, depend on the kind of task."""
        import polars as pl

        kind, values = self.task.kind, outputs.reshape(len(outputs), outputs[:1].numel() or len(self.names))
        names = [f"p({n})" if UNITS.get(kind) == "probabilities" else f"predicted_{n}" for n in self.names]
        if len(names) != values.shape[1]:
            names = [f"output_{number}" for number in range(values.shape[1])]
        columns = {name: pl.Series(value.numpy()) for name, value in zip(names, values.T, strict=True)}
        if kind == "classes" and outputs.dim() == 2:
            to_series = getattr(self.reader, "name_classes", lambda names: pl.Series(names, dtype=pl.String))
            best = to_series(self.names)[values.argmax(1).numpy()]
            columns = {f"predicted_{self.reader.targets[0]}": best, **columns}
        return columns


def load(
    folder: str | Path, weights: str = "best", device: str = "cpu", allow: Sequence[str] = ()
) -> Predictor:
    """Return the model of a run, or of a folder that was exported for the hub, in evaluation mode.

    No code from the folder runs: weights and rules are plain values, and its config may name only what conf/
    names and what you allow.

    Args:
        folder: such as "logs/houses".
        weights: of a run, "best" (by what it monitored) or "last".
        device: where the network goes, "cpu", "cuda" or "mps".
        allow: further names, or modules whose names are allowed, such as "my_models".

    Raises:
        ConfigError: no such folder or checkpoint, a name that is not allowed, or parts that do not fit.
    """
    from descent.inference.hub import is_hub, read_hub

    run = read_hub(folder) if is_hub(folder) else read_run(folder, weights)
    kind, run.allowed = run.data["reader"].get("kind"), list_allowed(allow)
    require(kind in READERS, "run", str(folder), f"a run whose data comes from one of {', '.join(READERS)}")
    with refuse_misfits(run):
        kind_of_reader: Any = locate("run.reader", READERS[kind])
        reader = kind_of_reader.from_description(run.data["reader"])
        task = build_node("task", run.data["task"], run.weights("task"), run.allowed)
        model = build_node("model", run.config["model"], find_sizes(run, task), run.allowed)
        require(isinstance(model, nn.Module), "model", run.config["model"]["_target_"], "a network")
        moments = run.weights("scaling")
        scaling = Scaling(moments["mean"], moments["std"], reader.encoder())
        predictor = Predictor(run, model, scaling, task, reader).eval()
        own = ("model.", "scaling.", "task.")
        state = run.checkpoint["state_dict"]
        predictor.load_state_dict({name: state[name] for name in state if name.startswith(own)})
        with torch.inference_mode():
            shape = predictor(predictor.examples[:1]).shape
        if task.names and len(shape) == 2 and shape[1] != len(task.names):
            raise ValueError(f"{shape[1]} outputs, {len(task.names)} names")
    model.to(device)
    return predictor


def find_sizes(run: SavedRun, task: Task) -> dict[str, Any]:
    """Return what the model and the metrics of a run may name."""
    shape, outputs = tuple(run.data["input_shape"]), len(run.data["names"])
    return {**task.sizes(), "input_shape": shape, "outputs": outputs}


@contextmanager
def refuse_misfits(run: SavedRun) -> Iterator[None]:
    """Turn into a `ConfigError` what a crafted run, or files of two runs, raise where they are put together."""
    try:
        yield
    except ConfigError:
        raise
    except (RuntimeError, ValueError, TypeError, LookupError, AttributeError) as error:
        expected = f"weights, data and config that fit each other ({' '.join(str(error).split())[:300]})"
        raise ConfigError("run", str(run.folder), expected=expected) from error


def name_source(source: Any) -> str:
    """Return how errors call what is predicted for."""
    return str(source) if isinstance(source, str | Path) else type(source).__name__


def printable(text: str) -> str:
    """Return a text that can be written as UTF-8: names of files and folders may not be UTF-8."""
    return text.encode("utf-8", "backslashreplace").decode()
