"""A trained run, ready to use: `model = load("logs/…")`, then `model.predict("new.csv")` or `model(inputs)`.

It needs the run's folder (`config.yaml` and `checkpoints/`), but not Hydra, Lightning or `conf/`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from descent.data.images.image_reader import ImageReader
from descent.data.named_path import NamedPath
from descent.data.readers import Reader, reader_of, require_finite
from descent.data.table.columns import as_values
from descent.data.table.table_reader import TableReader
from descent.errors import ConfigError, blame, require
from descent.run.folder import SavedRun, read_run
from descent.run.trust import build
from descent.scaling import Scaling

if TYPE_CHECKING:  # half a second of import that only those who read files pay for
    import numpy as np
    import polars as pl

    Source = str | Path | pl.DataFrame | np.ndarray | Any


class Predictor(nn.Module):
    """The whole model of a run, from a file's numbers to probabilities, or to values in the target's units.

    Attributes:
        model: the network, `(batch, *input_shape)` to `(batch, outputs)`.
        scaling: between raw inputs, the network, and the targets' units.
        reader: turns files into raw inputs, as in training.
        run: the config and the checkpoint that all this is from.
        folder: of the run, as the caller named it.
        task: "classification" or "regression".
        names: of the classes or of the target values, in the order of the outputs.
        classes: the names in classification; empty in regression.
        input_shape: of one sample, as the network sees it.
    """

    def __init__(
        self, model: nn.Module, scaling: Scaling, reader: Reader, run: SavedRun, folder: str | Path
    ) -> None:
        super().__init__()
        self.model, self.scaling, self.reader, self.run = model, scaling, reader, run
        self.folder, self.task, self.names = str(folder), run.data["task"], run.data["names"]
        self.classes: list[str] = self.names if self.task == "classification" else []
        self.input_shape = tuple(run.data["input_shape"])

    def forward(self, inputs: Tensor) -> Tensor:
        """Return probabilities `(batch, classes)` or values `(batch, targets)` for raw inputs."""
        return self.scaling.unscale(self.model(self.scaling.scale(inputs)))

    @property
    def device(self) -> torch.device:
        """Return where the weights are."""
        return self.scaling.input_mean.device

    @torch.inference_mode()
    def predict_blocks(
        self, source: Source, keep: Sequence[str] = (), batch_size: int = 1024
    ) -> Iterator[pl.DataFrame]:
        """Yield predictions for the rows of a file, or the images of a folder, in order, in constant memory.

        Args:
            source: a file of the same kind as the run's data: a CSV or Parquet file, a folder of images, or
                an `.npy` array; or the content of such a file as an array or as a frame of polars or pandas.
                An array for a table has the columns that the run learned from, in their order.
            keep: columns of the file to copy. For images, "file" is always copied.
            batch_size: samples that go through the network at once.

        Yields:
            Frames of the kept columns, then `predicted_<target>`. A predicted class is written as in the
            table (a name, a whole number, or true and false), and each class's probability, `p(<name>)`,
            follows. A source without rows gives one frame without rows.

        Raises:
            ConfigError: the source cannot be read, a column is missing, or an array holds infinity or NaN.
        """
        import polars as pl

        empty = True
        for rows, inputs in self._read(source):
            outputs = torch.cat([self(batch.to(self.device)).cpu() for batch in inputs.split(batch_size)])
            empty = False
            if not bool(outputs.isfinite().all()):
                name = str(source) if isinstance(source, str | Path) else "…"
                raise ConfigError("input", name, expected="values for which the model gives numbers, not NaN")
            yield self._frame(rows, keep, outputs)
        if empty:
            rows = pl.DataFrame({name: [] for name in keep})
            yield self._frame(rows, keep, torch.empty(0, len(self.names)))

    def predict(self, source: Source, keep: Sequence[str] = (), batch_size: int = 1024) -> pl.DataFrame:
        """Return what `predict_blocks` yields, as one frame."""
        import polars as pl

        return pl.concat(list(self.predict_blocks(source, keep, batch_size)))

    def _read(self, source: Source) -> Iterator[tuple[pl.DataFrame, Tensor]]:
        """Yield blocks of rows and their raw inputs."""
        import polars as pl

        if isinstance(source, str | Path):
            yield from self.reader.read(NamedPath("input", str(source)))
        elif isinstance(self.reader, TableReader):
            yield self.reader.read_frame(as_frame(source, [column.name for column in self.reader.columns]))
        elif hasattr(source, "columns"):
            expected = "an array or a path, for this run did not learn from a table"
            raise ConfigError("input", "a frame", expected=expected)
        else:
            file = NamedPath("input", "an array")
            shape = tuple(self.run.data["inputs"].shape[1:])
            if tuple(source.shape[1:]) != shape:
                raise file.error(f"samples like those that the run learned from, of shape {shape}")
            with blame("input"):
                inputs = torch.as_tensor(source)
            require_finite(inputs, file, 0)
            yield pl.DataFrame(), inputs

    def _frame(self, rows: pl.DataFrame, keep: Sequence[str], outputs: Tensor) -> pl.DataFrame:
        """Put the kept columns and the outputs beside each other."""
        import polars as pl

        values, target = outputs.float().numpy(), self.reader.targets[0]
        columns: dict[str, Any] = {}
        if self.classes:
            best = pl.Series(outputs.argmax(1).numpy())
            of_table = isinstance(self.reader, TableReader)
            names = as_values(self.classes) if of_table else pl.Series(self.classes, dtype=pl.String)
            columns[f"predicted_{target}"] = names.gather(best)
            columns |= {f"p({name})": pl.Series(values[:, i]) for i, name in enumerate(self.classes)}
        else:
            columns = {f"predicted_{name}": pl.Series(values[:, i]) for i, name in enumerate(self.names)}
        if isinstance(self.reader, ImageReader) and "file" in rows.columns:
            keep = list(dict.fromkeys(["file", *keep]))
        for name in keep:
            if name not in rows.columns:
                raise ConfigError("keep", name, expected="a column of the input", choices=rows.columns)
            require(name not in columns, "keep", name, "a column that no prediction is called by")
        return pl.DataFrame({name: rows[name] for name in keep} | columns)


def load(
    folder: str | Path, weights: str = "best", device: str = "cpu", allow: Sequence[str] = ()
) -> Predictor:
    """Return the model of a run, in evaluation mode.

    No code from the folder runs: weights and rules are plain values, and what `config.yaml` names is built
    only if it is a network of descent, torch, torchvision or timm, or from a module that you allow.

    Args:
        folder: of the run, such as "logs/mae-sgd-mlp-digits-20260101-120000".
        weights: "best" (by the run's monitored metric) or "last".
        device: where the model goes, "cpu" or "cuda".
        allow: modules of your own, such as "my_models".

    Raises:
        ConfigError: the folder holds no run or not that checkpoint, or names a class that is not allowed.
    """
    run = read_run(folder, weights)
    node = run.config["model"]
    shape, outputs = tuple(run.data["input_shape"]), run.data["outputs"]
    model = build("model", node, allow, input_shape=shape, outputs=outputs)
    require(isinstance(model, nn.Module), "model", node.get("_target_"), "something that builds a network")
    try:
        reader = reader_of(run.data["reader"], shape)
        scaling = Scaling(
            **run.weights("scaling"), encoder=reader.encoder(), activation=run.data["activation"]
        )
        model.to(scaling.input_mean.dtype).load_state_dict(run.weights("model"))
        with torch.no_grad():
            zeros = scaling.input_mean.new_zeros(1, *shape)
            sample = (zeros - scaling.input_mean) / scaling.input_std
            fits = scaling.unscale(model.eval()(sample)).shape == (1, outputs)
    # a file of another run, or a crafted one, fails in any of these ways
    except (RuntimeError, ValueError, TypeError, LookupError, AttributeError) as error:
        expected = f"weights and data that fit its model ({' '.join(str(error).split())[:300]})"
        raise ConfigError("run", str(folder), expected=expected) from error
    require(fits, "run", str(folder), f"a model of {shape} to {outputs} outputs")
    return Predictor(model, scaling, reader, run, folder).eval().to(device)


def as_frame(source: Any, names: Sequence[str]) -> pl.DataFrame:
    """Return a frame of polars or pandas, or an array `(rows, columns)` with these names, as a polars frame.

    Polars itself would need pyarrow for a frame of pandas.
    """
    import polars as pl

    if isinstance(source, pl.DataFrame):
        return source
    if hasattr(source, "columns"):
        columns: dict[str, Any] = {}
        for name in source.columns:
            column = source[name]
            if getattr(column.dtype, "kind", "O") in "biuf" and not column.hasnans:
                columns[str(name)] = column.to_numpy()
            else:
                columns[str(name)] = column.astype(object).where(column.notna(), None).to_list()
        return pl.DataFrame(columns, strict=False)
    if getattr(source, "ndim", 0) != 2 or source.shape[1] != len(names):
        expected = f"a frame, or an array of the columns {', '.join(names)}"
        raise ConfigError("input", "an array", expected=expected)
    return pl.DataFrame(source, schema=list(names))
