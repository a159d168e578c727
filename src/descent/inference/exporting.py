"""A run's whole model, from raw inputs to probabilities or values, as a file that needs no descent."""

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

TOLERANCE = 1e-3  # share of the largest output: float32 sums in another order, over many layers


def describe_model(model: Predictor) -> str:
    """Return, as JSON, what a model takes and returns, and how a file becomes what it takes.

    A table's columns are in the order of the inputs, with their words and the values that fill gaps.
    """
    inputs, reader = model.run.data["inputs"], dict(model.run.data["reader"])
    reader.pop("path", None)  # it is of the machine that trained
    units = "probabilities" if model.classes else "in the targets' own units"
    values = {
        "task": model.task,
        "inputs": {"type": str(inputs.dtype).removeprefix("torch."), "shape": ["batch", *inputs.shape[1:]]},
        "outputs": {"names": model.names, "values": units, "shape": ["batch", len(model.names)]},
        "reader": reader,
    }
    return json.dumps(values, ensure_ascii=False, indent=2) + "\n"


def list_companions(model: Predictor, output: Path) -> dict[Path, str]:
    """Return the texts to write beside an exported model: its description, and for tables a reader."""
    texts = {output.with_suffix(".json"): describe_model(model)}
    if isinstance(model.reader, TableReader):
        source = Path(__file__).with_name("plain_reader.py").read_text(encoding="utf-8")
        source = source.replace("model.json", f"{output.stem}.json")
        texts[output.with_name(f"{output.stem}_reader.py")] = source
    return texts


def trace(model: Predictor, inputs: Tensor) -> ExportedProgram:
    """Return the model as torch.export traces it, for batches of any size."""
    with torch.inference_mode(False), torch.no_grad(), blame("format"):
        sizes = {"inputs": {0: Dim("batch", min=1)}}
        return torch.export.export(model, (inputs[:2].clone(),), dynamic_shapes=sizes)


def to_torch_export(model: Predictor, inputs: Tensor) -> tuple[bytes, float]:
    """Return a file for `torch.export.load`, and how far its outputs are off; see `find_difference`."""
    program, buffer = trace(model, inputs), BytesIO()
    texts = {"names.json": json.dumps(model.names), "model.json": describe_model(model)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about tensors that share their memory
        torch.export.save(program, buffer, extra_files=texts)
    loaded = torch.export.load(BytesIO(buffer.getvalue())).module()
    return buffer.getvalue(), find_difference(model, inputs, loaded)


def to_onnx(model: Predictor, inputs: Tensor) -> tuple[bytes, float]:
    """Return an ONNX file, and how far its outputs are off when onnxruntime computes them."""
    try:
        import onnxruntime
        import onnxscript  # noqa: F401  # torch.onnx needs it
    except ImportError as error:
        packages = "onnx, onnxscript and onnxruntime; `uv sync --extra onnx` or `pip install -e '.[onnx]'`"
        raise ConfigError("format", "onnx", expected=f"{packages} ({error})") from error
    for name in ("torch.onnx", "onnxscript", "onnx_ir"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with warnings.catch_warnings(), blame("format"):
        warnings.simplefilter("ignore")  # about the exporter's own code
        program = torch.onnx.export(
            trace(model, inputs),
            input_names=["inputs"],
            output_names=["probabilities" if model.classes else "values"],
            dynamic_shapes={"inputs": {0: "batch"}},  # the trace has the dimension, this gives it its name
            verbose=False,
            dynamo=True,
        )
    assert program is not None
    program.model.metadata_props.update(names=json.dumps(model.names), model=describe_model(model))
    content = program.model_proto.SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])

    def run(batch: Tensor) -> Tensor:
        return torch.from_numpy(session.run(None, {"inputs": batch.numpy()})[0])

    return content, find_difference(model, inputs, run)


def find_difference(model: Predictor, inputs: Tensor, exported: Callable[[Tensor], Tensor]) -> float:
    """Return the largest difference of an exported model's outputs, as a share of the largest output.

    It is given all inputs in one batch, and then eight samples one by one.
    """
    with torch.no_grad():
        expected = model(inputs)
        found = [exported(inputs), torch.cat([exported(sample) for sample in inputs[:8].split(1)])]
    difference = max(float((f - expected[: len(f)]).abs().max()) for f in found)
    return difference / max(1e-12, float(expected.abs().max()))


FORMATS: dict[str, tuple[Callable[[Predictor, Tensor], tuple[bytes, float]], str]] = {
    "onnx": (to_onnx, ".onnx"),
    "torch_export": (to_torch_export, ".pt2"),
}
