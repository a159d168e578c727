"""A run's whole model, raw inputs to probabilities or values, in a form that runs without this project."""

import json
import logging
import warnings
from collections.abc import Callable, Sequence
from io import BytesIO

import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram

from descent.data.paths import NamedPath
from descent.errors import ConfigError, blame
from descent.inference.predictor import Predictor
from descent.run.trust import build

SAMPLES = 1_000  # of the run's own data, that the exported model is held against the original on
TOLERANCE = 1e-3  # of the largest output: float32 sums in another order, over many layers


def read_own_inputs(model: Predictor, allow: Sequence[str]) -> Tensor:
    """Return some raw inputs of the run's own data."""
    path = model.run.data["reader"].get("path")
    if path is not None:
        _, inputs = next(model.reader.read(NamedPath("run's data", path)))
        return inputs[:SAMPLES]
    data = build("data", model.run.config["data"], allow)
    scaled = torch.cat([inputs for inputs, _ in data.test_dataloader()])[:SAMPLES]
    return scaled * model.scaling.input_std + model.scaling.input_mean


def trace(model: Predictor, inputs: Tensor) -> ExportedProgram:
    """Return the model as torch.export sees it, with a batch of any size."""
    with torch.inference_mode(False), torch.no_grad(), blame("format"):
        sizes = {"inputs": {0: Dim("batch", min=1)}}
        return torch.export.export(model, (inputs[:2].clone(),), dynamic_shapes=sizes)


def to_torch_export(model: Predictor, inputs: Tensor) -> tuple[bytes, float]:
    """Return the bytes of a file for `torch.export.load`, and how far its outputs are off."""
    program, buffer = trace(model, inputs), BytesIO()
    torch.export.save(program, buffer, extra_files={"names.json": json.dumps(model.names)})
    loaded = torch.export.load(BytesIO(buffer.getvalue())).module()
    return buffer.getvalue(), largest_difference(model, inputs, loaded)


def to_onnx(model: Predictor, inputs: Tensor) -> tuple[bytes, float]:
    """Return the bytes of an ONNX file, and how far its outputs, by onnxruntime, are off.

    Raises:
        ConfigError: onnx, onnxscript or onnxruntime is not installed.
    """
    try:
        import onnxruntime
        import onnxscript  # noqa: F401  # torch.onnx needs it
    except ImportError as error:
        expected = (
            "onnx, onnxscript and onnxruntime; `uv sync --extra onnx` or `pip install -e '.[onnx]'`"
            f" ({error})"
        )
        raise ConfigError("format", "onnx", expected=expected) from error
    for name in ("torch.onnx", "onnxscript", "onnx_ir"):
        logging.getLogger(name).setLevel(logging.ERROR)
    output = "probabilities" if model.classes else "values"
    with warnings.catch_warnings(), blame("format"):
        warnings.simplefilter("ignore")  # on what the exporter does within itself
        program = torch.onnx.export(
            trace(model, inputs), input_names=["inputs"], output_names=[output], verbose=False, dynamo=True
        )
    assert program is not None
    program.model.metadata_props["names"] = json.dumps(model.names)
    content = program.model_proto.SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])

    def run(batch: Tensor) -> Tensor:
        return torch.from_numpy(session.run(None, {"inputs": batch.numpy()})[0])

    return content, largest_difference(model, inputs, run)


def largest_difference(model: Predictor, inputs: Tensor, exported: Callable[[Tensor], Tensor]) -> float:
    """Return it over batches of one sample and of all, as a share of the largest output."""
    with torch.no_grad():
        expected = model(inputs)
        found = [exported(inputs), torch.cat([exported(sample) for sample in inputs[:8].split(1)])]
    difference = max(float((f - expected[: len(f)]).abs().max()) for f in found)
    return difference / max(1e-12, float(expected.abs().max()))


FORMATS: dict[str, tuple[Callable[[Predictor, Tensor], tuple[bytes, float]], str]] = {
    "onnx": (to_onnx, ".onnx"),
    "torch_export": (to_torch_export, ".pt2"),
}
