"""A run's whole model, raw inputs to probabilities or values, in a form that runs without this project."""

import json
import logging
import warnings
from collections.abc import Callable, Sequence
from io import BytesIO

import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram

from descent.errors import ConfigError
from descent.predictor import Predictor, build

SAMPLES = 1_000  # of the run's own data, that the exported model is held against the original on
TOLERANCE = 1e-3  # of the largest output: float32 sums in another order, over many layers


def own_inputs(model: Predictor, allow: Sequence[str]) -> Tensor:
    """Some raw inputs of the run's own data."""
    path = model.held["reader"].get("path")
    if path is not None:
        return next(model.reader.read(path, f"run={model.folder}, whose data was {path}"))[1][:SAMPLES]
    data = build("data", model.config["data"], allow)
    normalised = torch.cat([inputs for inputs, _ in data.test_dataloader()])[:SAMPLES]
    return normalised * model.input_std + model.input_mean


def program_of(model: Predictor, inputs: Tensor) -> ExportedProgram:
    """The model as torch.export sees it, with a batch of any size."""
    with torch.inference_mode(False), torch.no_grad():
        return torch.export.export(
            model, (inputs[:2].clone(),), dynamic_shapes={"inputs": {0: Dim("batch", min=1)}}
        )


def to_torch_export(model: Predictor, inputs: Tensor) -> tuple[bytes, float]:
    """The bytes of a file for `torch.export.load`, and how far its outputs are off."""
    program, buffer = program_of(model, inputs), BytesIO()
    torch.export.save(program, buffer, extra_files={"classes.json": json.dumps(names_of(model))})
    loaded = torch.export.load(BytesIO(buffer.getvalue())).module()
    return buffer.getvalue(), largest_difference(model, inputs, loaded)


def to_onnx(model: Predictor, inputs: Tensor) -> tuple[bytes, float]:
    """The bytes of an ONNX file, and how far its outputs, by onnxruntime, are off.

    Raises:
        ConfigError: onnx, onnxscript or onnxruntime is not installed.
    """
    try:
        import onnxruntime
        import onnxscript  # noqa: F401  # torch.onnx needs it
    except ImportError as error:
        raise ConfigError(
            "format=onnx: expected onnx, onnxscript and onnxruntime; `uv sync --extra onnx` or"
            f" `pip install -e '.[onnx]'` ({error})"
        ) from error
    for name in ("torch.onnx", "onnxscript", "onnx_ir"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on what the exporter does within itself
        program = torch.onnx.export(
            program_of(model, inputs),
            input_names=["inputs"],
            output_names=["probabilities" if model.classes else "values"],
            verbose=False,
            dynamo=True,
        )
    assert program is not None
    program.model.metadata_props["classes"] = json.dumps(names_of(model))
    content = program.model_proto.SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return content, largest_difference(
        model, inputs, lambda batch: torch.from_numpy(session.run(None, {"inputs": batch.numpy()})[0])
    )


def names_of(model: Predictor) -> list[str]:
    """What the outputs are, in their order."""
    return model.classes or model.target_names


def largest_difference(model: Predictor, inputs: Tensor, exported: Callable[[Tensor], Tensor]) -> float:
    """Over batches of one sample and of all, as a share of the largest output."""
    with torch.no_grad():
        expected = model(inputs)
        found = [exported(inputs), torch.cat([exported(sample) for sample in inputs[:8].split(1)])]
    difference = max(float((f - expected[: len(f)]).abs().max()) for f in found)
    return difference / max(1e-12, float(expected.abs().max()))


FORMATS: dict[str, tuple[Callable[[Predictor, Tensor], tuple[bytes, float]], str]] = {
    "onnx": (to_onnx, ".onnx"),
    "torch_export": (to_torch_export, ".pt2"),
}
