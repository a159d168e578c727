"""A run's whole model, from raw inputs to probabilities or values, as a file that needs no descent."""

import json
import logging
import warnings
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram

from descent.errors import ConfigError, blame, require
from descent.inference.output import open_output, require_free
from descent.inference.predictor import UNITS, Predictor, printable

TOLERANCE = 1e-3  # of the unit that outputs are compared in: float32 sums in another order, over many layers


def export(model: Predictor, form: str, output: str | None, overwrite: bool) -> str:
    """Write a model as one file, with a JSON file beside it, and return a line that says how far it is off.

    Raises:
        ConfigError: the file may not be replaced, or the exported model gives something else.
    """
    convert, suffix = FORMATS[form]
    folder, inputs = str(model.run.folder.path), model.examples
    output = output or str(Path(folder, f"model{suffix}"))
    beside, description = str(Path(output).expanduser().with_suffix(".json")), describe_model(model)
    require_free(output, overwrite, folder)
    if not Path(beside).is_file() or Path(beside).read_text(encoding="utf-8") != description:
        require_free(beside, overwrite, folder)  # the export to another format may have written the same text
    with blame("format"):
        content, exported = convert(model, description)
    difference = find_difference(model, exported)
    expected = (
        f"what the run's model gives, but the exported one differs by {difference:.2g}; nothing is written"
    )
    require(difference <= TOLERANCE, "format", form, expected)
    for path, data in ((beside, description.encode()), (output, content)):
        with open_output(path) as stream:
            stream.write(data)
    shape = ", ".join(map(str, ("batch", *inputs.shape[1:])))
    return (
        f"{output}: {name_type(inputs)} inputs ({shape}) of any batch size; on {len(inputs):,} samples of the run's own"
        f" data it differs from the original by at most {difference:.2g} of the largest output"
        f"\n{beside}: what it takes and gives"
    )


def describe_model(model: Predictor) -> str:
    """Return, as JSON, what a model takes and returns, and how a file becomes what it takes."""
    inputs, outputs = model.examples, model(model.examples[:1])
    values = {
        "task": model.task.kind,
        "inputs": {"type": name_type(inputs), "shape": ["batch", *inputs.shape[1:]]},
        "outputs": {
            "names": model.names,
            "values": UNITS.get(model.task.kind, "as the task predicts them"),
            "type": name_type(outputs),
            "shape": ["batch", *outputs.shape[1:]],
        },
        "reader": {name: value for name, value in model.run.data["reader"].items() if name != "path"},
    }
    return printable(json.dumps(values, ensure_ascii=False, indent=2) + "\n")


def name_type(values: Tensor) -> str:
    """Return a tensor's type as NumPy has it, such as "float64"."""
    return str(values.dtype).removeprefix("torch.")


def trace(model: Predictor) -> ExportedProgram:
    """Return the model as torch.export traces it, for batches of any size."""
    with torch.no_grad():
        sizes = {"inputs": {0: Dim("batch", min=1)}}
        return torch.export.export(model, (model.examples[[0, 0]],), dynamic_shapes=sizes)


def to_torch_export(model: Predictor, description: str) -> tuple[bytes, Callable[[Tensor], Tensor]]:
    """Return a file for `torch.export.load`, and what it contains."""
    buffer = BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about tensors that share their memory
        torch.export.save(trace(model), buffer, extra_files={"model.json": description})
    return buffer.getvalue(), torch.export.load(BytesIO(buffer.getvalue())).module()


def to_onnx(model: Predictor, description: str) -> tuple[bytes, Callable[[Tensor], Tensor]]:
    """Return an ONNX file, and how onnxruntime computes it."""
    try:
        import onnxruntime
        import onnxscript  # noqa: F401  # torch.onnx needs it
    except ImportError as error:
        packages = "onnx, onnxscript and onnxruntime; `uv sync --extra onnx` or `pip install -e '.[onnx]'`"
        raise ConfigError("format", "onnx", expected=f"{packages} ({error})") from error
    for name in ("torch.onnx", "onnxscript", "onnx_ir"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about the exporter's own code
        names: Any = {"input_names": ["inputs"], "output_names": ["outputs"]}
        shapes = {"inputs": {0: "batch"}}  # the trace has the dimension, this gives it its name
        program = torch.onnx.export(trace(model), **names, dynamic_shapes=shapes, verbose=False, dynamo=True)
    assert program is not None
    program.model.metadata_props.update(model=description)
    content = program.model_proto.SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return content, lambda batch: torch.from_numpy(session.run(None, {"inputs": batch.numpy()})[0])


def find_difference(model: Predictor, exported: Callable[[Tensor], Tensor]) -> float:
    """Return the largest difference of an exported model's outputs, in all examples at once and one by one.

    It is a share of the targets' deviation where the task has one, and else of the largest output.
    """
    inputs = model.examples
    with torch.no_grad():
        expected = model(inputs)
        found = [exported(inputs), torch.cat([exported(sample) for sample in inputs[:8].split(1)])]
    unit = getattr(model.task, "std", expected.abs().max().clamp(min=1e-12))
    return max(float(((f - expected[: len(f)]) / unit).abs().max()) for f in found)


FORMATS: dict[str, tuple[Callable[[Predictor, str], tuple[bytes, Callable[[Tensor], Tensor]]], str]] = {
    "onnx": (to_onnx, ".onnx"),
    "torch_export": (to_torch_export, ".pt2"),
}
