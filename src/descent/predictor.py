"""A trained run, ready to use: `model = load("logs/…")`, then `model.predict("new.csv")` or `model(inputs)`.

Needs the run's folder (`config.yaml` and `checkpoints/`), and neither Hydra, Lightning nor `conf/`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import yaml
from torch import Tensor, nn

from descent.checkpoints import read
from descent.data.readers import Reader, reader_of
from descent.errors import ConfigError, nearest
from descent.trust import MODULES

if TYPE_CHECKING:
    import polars as pl

STATISTICS = ("input_mean", "input_std", "target_mean", "target_std")


class Predictor(nn.Module):
    """The whole model of a run, from a file's numbers to probabilities, or to values in the target's units.

    Attributes:
        task: "classification" or "regression".
        classes: their names, in the order of the probabilities; empty in regression.
        target_names: of the values; empty in classification.
        reader: turns files into inputs, as in training.
        config: of the run, plain values.
        folder: of the run.

    Args:
        model: as trained, `(batch, *input_shape)` to `(batch, outputs)`.
        held: what the run's data held: the `state_dict` of its data module.
        statistics: `input_mean`, `input_std`, `target_mean` and `target_std`.
        config: of the run.
        folder: of the run.
    """

    input_mean: Tensor
    input_std: Tensor
    target_mean: Tensor
    target_std: Tensor

    def __init__(
        self,
        model: nn.Module,
        held: Mapping[str, Any],
        statistics: Mapping[str, Tensor],
        config: dict[str, Any],
        folder: Path,
    ) -> None:
        super().__init__()
        self.model, self.config, self.folder = model, config, folder
        self.reader: Reader = reader_of(held["reader"], held["input_shape"])
        self.encoder = self.reader.encoder()
        self.task, self.classes, self.target_names = held["task"], held["classes"], held["target_names"]
        self.held = dict(held)
        self.each_class_alone = config["loss"]["_target_"].endswith(".BCEWithLogitsLoss")
        for name in STATISTICS:
            self.register_buffer(name, statistics[name])

    def forward(self, inputs: Tensor) -> Tensor:
        """Inputs as they are read to probabilities `(batch, classes)` or values `(batch, targets)`."""
        return self.finish(self.model(self.normalise(inputs)))

    def normalise(self, inputs: Tensor) -> Tensor:
        """Inputs as they are read to what the network is trained on."""
        return (self.encoder(inputs).to(self.input_mean.dtype) - self.input_mean) / self.input_std

    def finish(self, outputs: Tensor) -> Tensor:
        """What the network gives to probabilities, or to values in the target's units."""
        if self.task == "regression":
            return outputs * self.target_std + self.target_mean
        return outputs.sigmoid() if self.each_class_alone else outputs.softmax(1)

    @torch.inference_mode()
    def predict_blocks(
        self, path: str, keep: Sequence[str] = (), batch_size: int = 1024, source: str = ""
    ) -> Iterator[pl.DataFrame]:
        """Predictions for the rows of a file, or the images of a folder, in order and in constant memory.

        Args:
            path: a CSV or Parquet file, a folder of images, or an `.npy` array, as the run's data was.
            keep: columns of the file to copy; of images there is one, "file".
            batch_size: samples that go through the network at once.
            source: what an error begins with; the path where it is empty.

        Yields:
            Frames of the kept columns, then `predicted_<target>`; for classes that is a name, and the
            probability of each follows, `p(<name>)`.
        """
        import polars as pl

        device = self.input_mean.device
        for rows, inputs in self.reader.read(path, source or path):
            for name in keep:
                if name not in rows.columns:
                    raise ConfigError(
                        f"keep={name}: expected a column of {path}{nearest(name, rows.columns)}"
                    )
            outputs = torch.cat([self(batch.to(device)).cpu() for batch in inputs.split(batch_size)])
            columns = {name: rows[name] for name in keep} | self.columns_of(outputs)
            yield pl.DataFrame(columns)

    def predict(self, path: str, keep: Sequence[str] = ()) -> pl.DataFrame:
        """`predict_blocks`, all at once."""
        import polars as pl

        return pl.concat(list(self.predict_blocks(path, keep)))

    def columns_of(self, outputs: Tensor) -> dict[str, Any]:
        """Probabilities or values as columns by name."""
        import polars as pl

        values = outputs.float().numpy()
        if self.task == "regression":
            return {f"predicted_{t}": pl.Series(values[:, i]) for i, t in enumerate(self.target_names)}
        names = pl.Series(self.classes).gather(pl.Series(outputs.argmax(1).numpy()))
        target = getattr(self.reader, "targets", ["class"])[0]
        chances = {f"p({c})": pl.Series(values[:, i]) for i, c in enumerate(self.classes)}
        return {f"predicted_{target}": names, **chances}


def load(
    folder: str | Path, weights: str = "best", device: str = "cpu", allow: Sequence[str] = ()
) -> Predictor:
    """The model of a run, in evaluation mode.

    Nothing that the folder holds is run: weights and rules are plain values, and a class that `config.yaml`
    names is built only if it is in descent, torch.nn, torchvision.models, timm, or a module that you allow.

    Args:
        folder: of the run, such as "logs/mae-sgd-mlp-digits-20260101-120000".
        weights: "best" (by the run's monitored metric) or "last".
        device: where to, "cpu" or "cuda".
        allow: modules of your own, such as "my_models".

    Raises:
        ConfigError: no run's folder, one without that checkpoint, one of another project, or a class that is
            not allowed.
    """
    config, checkpoint, held = read_run(folder, weights)
    shape = {"input_shape": tuple(held["input_shape"]), "outputs": held["outputs"]}
    settings = dict(config["model"])
    if "pretrained" in settings:  # the run's own weights follow
        settings["pretrained"] = False
    state = checkpoint["state_dict"]
    model = build("model", settings, allow, **shape)
    try:
        model.load_state_dict(weights_of(state))
    except RuntimeError as error:
        raise ConfigError(
            f"run={folder}: expected weights that fit its model ({' '.join(str(error).split())})"
        ) from error
    statistics = {name: state[name] for name in STATISTICS}
    return Predictor(model, held, statistics, config, Path(folder)).eval().to(device)


def read_run(
    folder: str | Path, weights: str, key: str = "run"
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """A run's config, one of its checkpoints, and the state of its data module; errors as of `load`."""
    path = Path(folder).expanduser()
    source = f"{key}={folder}"
    if not (path / "config.yaml").is_file():
        siblings = [p.name for p in path.parent.glob("*") if p.is_dir()] if path.parent.is_dir() else []
        raise ConfigError(
            f"{source}: expected a run's folder, with config.yaml and checkpoints/"
            + nearest(path.name, siblings)
        )
    file = path / "checkpoints" / f"{weights}.ckpt"
    if not file.is_file():
        there = sorted(p.stem for p in file.parent.glob("*.ckpt"))
        raise ConfigError(f"{source}: expected {file}; there is {', '.join(there) or 'no checkpoint'}")
    try:
        config = yaml.safe_load((path / "config.yaml").read_text(encoding="utf-8"))
    except (yaml.YAMLError, OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{source}: expected whole files ({str(error).splitlines()[0]})") from error
    checkpoint = read(file)
    state = checkpoint.get("state_dict") if isinstance(checkpoint, dict) else None
    held = [v for v in checkpoint.values() if isinstance(v, dict) and "reader" in v] if state else []
    if not held or not state or any(name not in state for name in STATISTICS):
        raise ConfigError(
            f"{source}: expected a checkpoint of this template; {file.name} is of something else"
        )
    return config, checkpoint, held[0]


def weights_of(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The model's part of a LightningModule's weights, by the model's own names."""
    return {name.removeprefix("model."): t for name, t in state.items() if name.startswith("model.")}


def build(key: str, node: Any, allow: Sequence[str], **more: Any) -> Any:
    """The object that a part of a run's config describes, as `hydra.utils.instantiate` does.

    Args:
        key: of that part, for errors.
        node: a `_target_` with arguments, which may be such nodes themselves; anything else stays as it is.
        allow: modules that it may name beside those of `MODULES`.
        more: arguments beside those of the node.

    Raises:
        ConfigError: it names something of another module, or something that can not be imported.
    """
    if isinstance(node, list):
        return [build(key, item, allow) for item in node]
    if not isinstance(node, dict):
        return node
    values = {
        name: build(f"{key}.{name}", value, allow)
        for name, value in node.items()
        if name not in ("_target_", "_partial_", "_convert_")
    }
    if "_target_" not in node:
        return values
    target = find(f"{key}._target_", node["_target_"], (*MODULES, *allow))
    return target(**values, **more)


def find(key: str, path: str, trusted: Sequence[str]) -> Callable[..., Any]:
    """A class or function, imported only if it belongs to a module that is trusted."""

    def trusts(name: str) -> bool:
        return any(name == module or name.startswith(f"{module}.") for module in trusted)

    module, _, name = path.rpartition(".")
    if not trusts(module):
        raise ConfigError(
            f"{key}={path}: expected something of {', '.join(trusted)}; load a module of your own with"
            f" allow=[{path.partition('.')[0]}], if you trust it"
        )
    try:
        found = getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"{key}={path}: expected something that can be imported ({error})") from error
    if not trusts(found.__module__):  # such as `os.system`, by way of a module that imports os
        raise ConfigError(f"{key}={path}: expected something of {', '.join(trusted)}")
    return found
