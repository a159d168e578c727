"""A trained run, ready to use: `load("logs/houses").predict("new.csv")`, in plain Python, without Hydra."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import polars as pl
import torch
from torch import Tensor, nn

from descent.build import Config, build_node, locate
from descent.data.arrays import require_finite
from descent.data.named_path import NamedPath
from descent.data.scaling import Scaling
from descent.errors import ConfigError, require, require_one_of
from descent.inference.output import printable
from descent.machine import quiet_libraries, set_threads
from descent.run.saved import SavedRun, read_run
from descent.run.trust import list_allowed
from descent.task import Task

READERS = {  # imported by name, so that each room can be removed
    "array": "descent.data.arrays.ArrayReader",
    "images": "descent.images.reader.ImageReader",
    "table": "descent.table.reader.TableReader",
}
HUB = "model.safetensors"  # marks a folder for the hub
UNITS = {"classes": "probabilities", "labels": "probabilities", "values": "values in their own units"}


class Predictor(nn.Module):
    """The whole model of a run: the reader of its files, the scaling of inputs, the network, and its task."""

    batch_size = 1024  # samples that go through the network at once
    device = torch.device("cpu")  # of the network; scaling and task stay on the CPU, which has float64
    sizes: dict[str, Any]  # sizes that the model and the metrics may name

    def __init__(self, run: SavedRun, model: nn.Module, scaling: Scaling, task: Task, reader: Any) -> None:
        super().__init__()
        self.run, self.model, self.scaling, self.task, self.reader = run, model, scaling, task, reader
        self.examples, self.names = run.data["examples"], [printable(name) for name in task.names]

    def forward(self, inputs: Tensor) -> Tensor:
        """Return probabilities, or values in their own units, for raw inputs `(batch, …)`."""
        return self.task.predict(self.model(self.scaling(inputs)))

    def predict(self, source: Any, keep: Sequence[str] = ()) -> pl.DataFrame:
        """Return what `predict_blocks` yields, as one frame."""
        return pl.concat(list(self.predict_blocks(source, keep)))

    @torch.inference_mode()
    def predict_blocks(self, source: Any, keep: Sequence[str] = ()) -> Iterator[pl.DataFrame]:
        """Yield predictions in the order of the rows or images, in constant memory.

        Args:
            source: a file or folder like the run's own, an array of raw inputs, or a polars frame.
            keep: columns of the file to copy, before the predictions.
        """
        for rows, inputs in self._read(source):
            batches = (self.scaling(batch).to(self.device) for batch in inputs.split(self.batch_size))
            answers = torch.cat([self.task.predict(self.model(batch).cpu()) for batch in batches])
            expected = "values for which the model returns finite numbers"
            require(bool(answers.isfinite().all()), "input", str(source)[:200], expected)
            yield self._frame(rows, keep, answers)

    def _read(self, source: Any) -> Iterator[tuple[pl.DataFrame, Tensor]]:
        """Yield blocks of rows and their raw inputs."""
        if isinstance(source, str | Path):
            yield from self.reader.read(NamedPath("input", str(source)))
        elif isinstance(source, pl.DataFrame):
            require(hasattr(self.reader, "read_frame"), "input", "a frame", "a path or an array")
            yield self.reader.read_frame(source)
        else:
            shape, inputs = self.examples.shape[1:], torch.as_tensor(source)
            require(inputs.shape[1:] == shape, "input", "an array", f"samples of shape {tuple(shape)}")
            require_finite(inputs, NamedPath("input", "an array"))
            yield pl.DataFrame(), inputs

    def _frame(self, rows: pl.DataFrame, keep: Sequence[str], answers: Tensor) -> pl.DataFrame:
        """Join kept columns and predictions, under names that depend on the kind of task."""
        kind, values = self.task.kind, answers.unsqueeze(-1).flatten(1)
        form = "p({})" if UNITS.get(kind) == "probabilities" else "predicted_{}"
        names = [form.format(name) for name in self.names]
        if len(names) != values.shape[1]:
            names = [f"output_{number}" for number in range(values.shape[1])]
        columns = {name: pl.Series(value.numpy()) for name, value in zip(names, values.T, strict=True)}
        if kind == "classes" and answers.dim() == 2:
            to_series = getattr(self.reader, "name_classes", lambda names: pl.Series(names, dtype=pl.String))
            best = to_series(self.names)[values.argmax(1).numpy()]
            columns = {f"predicted_{self.reader.targets[0]}": best, **columns}
        always = rows.columns if self.run.data["reader"]["kind"] == "images" else []  # the name of the file
        kept = dict.fromkeys([*always, *keep])
        for name in kept:
            require_one_of(rows.columns, "keep", name, "a column of the input")
            require(name not in columns, "keep", name, "a column whose name no prediction has")
        return pl.DataFrame({name: rows[name] for name in kept} | columns)


def load(
    folder: str | Path, weights: str = "best", device: str = "cpu", allow: Sequence[str] = ()
) -> Predictor:
    """Return the model of a run, or of a folder for the hub; no code from the folder runs.

    Args:
        folder: the run's, or the one for the hub.
        weights: of a run: "best" (by what it monitored) or "last".
        device: where the network goes, "cpu", "cuda" or "mps".
        allow: names that its config may use in addition to those in conf/, or modules, such as "my_models".
    """
    folder = Path(folder).expanduser()
    if (folder / HUB).is_file():
        from descent.inference.exporting import read_hub

        run = read_hub(folder)
    else:
        run = read_run(folder, weights)
    kind, run.allowed = run.data["reader"].get("kind"), list_allowed(more=allow)
    require(kind in READERS, "run", str(folder), f"a run whose data comes from one of {', '.join(READERS)}")
    with refuse_misfits(run):
        kind_of_reader: Any = locate("run.reader", READERS[kind])
        reader = kind_of_reader.from_description(run.data["reader"])
        task = build_node("task", run.data["task"], run.weights("task"), run.allowed)
        sizes = {"input_shape": tuple(run.data["input_shape"]), "outputs": len(task.names), **task.sizes()}
        model = build_node("model", run.config["model"], sizes, run.allowed)
        scaling = Scaling(**run.weights("scaling"), encoder=reader.encoder())
        predictor = Predictor(run, model, scaling, task, reader).eval()
        state, own = run.checkpoint["state_dict"], ("model.", "scaling.", "task.")
        predictor.load_state_dict({name: state[name] for name in state if name.startswith(own)})
        predictor(predictor.examples[:1])
    predictor.sizes, predictor.device = sizes, torch.device(device)
    model.to(device)
    return predictor


def load_for(config: Config) -> Predictor:
    """Return the model that the config of `predict.py` or `evaluate.py` asks for."""
    quiet_libraries()
    require(config.batch_size >= 1, "batch_size", config.batch_size, "a whole number of at least 1")
    found = torch.accelerator.current_accelerator(check_available=True)
    fastest = found.type if found else "cpu"
    require_one_of(sorted({"auto", "cpu", fastest}), "device", config.device)
    device = fastest if config.device == "auto" else config.device
    model = load(config.run, config.weights, device, config.allow)
    model.batch_size = config.batch_size
    set_threads("auto", model)
    return model


@contextmanager
def refuse_misfits(run: SavedRun) -> Iterator[None]:
    """Turn the exceptions that mismatched files cause into a `ConfigError`."""
    try:
        with torch.no_grad():
            yield
    except ConfigError:
        raise
    except (RuntimeError, ValueError, TypeError, LookupError, AttributeError) as error:
        expected = f"weights, data and config that fit each other ({' '.join(str(error).split())[:300]})"
        raise ConfigError("run", str(run.folder), expected=expected) from error
