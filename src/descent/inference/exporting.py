"""A run's whole model, raw inputs to probabilities or values, in a form that runs without this project."""

import json
import logging
import warnings
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram

from descent.data.table.table_reader import TableReader
from descent.errors import ConfigError, blame
from descent.inference.predictor import Predictor

TOLERANCE = 1e-3  # of the largest output: float32 sums in another order, over many layers


def describe_model(model: Predictor) -> str:
    """Return, as JSON, what a model takes and gives, and how a file becomes what it takes.

    A table's columns are in the order of the inputs, with their words and what fills their gaps.
    """
    inputs, reader = model.run.data["inputs"], dict(model.run.data["reader"])
    reader.pop("path", None)  # of the machine that the run was made on
    units = "probabilities" if model.classes else "in the targets' own units"
    values = {
        "task": model.task,
        "inputs": {"type": str(inputs.dtype).removeprefix("torch."), "shape": ["batch", *inputs.shape[1:]]},
        "outputs": {"names": model.names, "values": units, "shape": ["batch", len(model.names)]},
        "reader": reader,
    }
    return json.dumps(values, ensure_ascii=False, indent=2) + "\n"


def list_companions(model: Predictor, output: Path) -> dict[Path, str]:
    """Return what is written beside an exported model, by path: its description, and for tables a reader."""
    texts = {output.with_suffix(".json"): describe_model(model)}
    if isinstance(model.reader, TableReader):
        source = Path(__file__).with_name("plain_reader.py").read_text(encoding="utf-8")
        texts[output.with_name(f"{output.stem}_reader.py")] = source.replace(
            "model.json", f"{output.stem}.json"
        )
    return texts


def trace(model: Predictor, inputs: Tensor) -> ExportedProgram:
    """Return the model as torch.export sees it, with a batch of any size."""
    with torch.inference_mode(False), torch.no_grad(), blame("format"):
        sizes = {"inputs": {0: Dim("batch", min=1)}}
        return torch.export.export(model, (inputs[:2].clone(),), dynamic_shapes=sizes)


def to_torch_export(model: Predictor, inputs: Tensor) -> tuple[bytes, float]:
    """Return the bytes of a file for `torch.export.load`, and how far its outputs are off."""
    program, buffer = trace(model, inputs), BytesIO()
    texts = {"names.json": json.dumps(model.names), "model.json": describe_model(model)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on tensors that share their memory
        torch.export.save(program, buffer, extra_files=texts)
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
            trace(model, inputs),
            input_names=["inputs"],
            output_names=[output],
            dynamic_shapes={"inputs": {0: "batch"}},  # traced already, and named here
            verbose=False,
            dynamo=True,
        )
    assert program is not None
    texts = {"names": json.dumps(model.names), "model": describe_model(model)}
    program.model.metadata_props.update(texts)
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
