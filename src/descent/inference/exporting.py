"""Exports a run's whole model: a file that works without descent, or a folder for Hugging Face's hub."""

import json
import logging
import warnings
from contextlib import ExitStack
from importlib import import_module
from io import BytesIO
from pathlib import Path
from typing import Any

import torch

from descent.data.described import shorten
from descent.errors import ConfigError, blame, first_line, require
from descent.inference.output import open_output, printable, to_json
from descent.inference.predictor import HUB, UNITS, Predictor
from descent.run.folder import RunFolder
from descent.run.saved import SavedRun, is_described
from descent.run.trust import read_text

FORMATS = {"onnx": "model.onnx", "torch_export": "model.pt2", "hub": "hub"}
TOLERANCE = 1e-3  # relative to the largest output: float32 sums in another order, over many layers
# keys of the config that loading and evaluating a run need
PARTS = ("name", "model", "loss", "metrics", "module")


def export(model: Predictor, form: str, output: str | None, overwrite: bool) -> str:
    """Write a model in one of `FORMATS`, after checking that it gives the same, and return a line on it."""
    folder = model.run.folder.path
    place = Path(output or folder / FORMATS[form]).expanduser()
    with warnings.catch_warnings(), torch.no_grad(), blame("format"):
        warnings.simplefilter("ignore")  # about the exporters' own code
        files, line = to_hub(model, place) if form == "hub" else to_file(model, place, form)
    if form == "hub" and not place.exists():
        with blame("output"):
            place.mkdir()
    with ExitStack() as opened:  # so that all files are written, or none
        for path, content in files.items():
            opened.enter_context(open_output(str(path), overwrite, folder)).write(content)
    return line


def describe(model: Predictor) -> dict[str, Any]:
    """Return a model's inputs and outputs, and how to turn a file into its inputs."""
    inputs, outputs = (
        {"type": str(values.dtype).removeprefix("torch."), "shape": ["batch", *values.shape[1:]]}
        for values in (model.examples, model(model.examples[:1]))
    )
    outputs |= {"names": model.names, "values": UNITS.get(model.task.kind, "predictions")}
    reader = {**model.run.data["reader"], "path": ""}  # the path belongs to the machine that trained
    return {"task": model.task.kind, "inputs": inputs, "outputs": outputs, "reader": reader}


def to_file(model: Predictor, place: Path, form: str) -> tuple[dict[Path, bytes], str]:
    """Return a file that takes raw inputs and gives the original's outputs, and its description as JSON."""
    sizes = {"inputs": {0: torch.export.Dim("batch", min=1)}}
    program = torch.export.export(model, (model.examples[[0, 0]],), dynamic_shapes=sizes)
    description = to_json(describe(model))
    content, exported = (to_onnx if form == "onnx" else to_torch_export)(program, description)
    inputs, expected = model.examples, model(model.examples)
    found = torch.cat([exported(inputs), *map(exported, inputs[:8].split(1))])
    # all targets may be large, so their deviation counts
    unit = getattr(model.task, "std", expected.abs().max().clamp(min=1e-12))
    difference = float(((found - torch.cat([expected, expected[:8]])) / unit).abs().max())
    same = f"outputs within {TOLERANCE:g} of the run's, not {difference:.2g}; nothing is written"
    require(difference <= TOLERANCE, "format", form, same)
    beside, takes = place.with_suffix(".json"), f"{inputs.dtype} inputs {tuple(inputs.shape[1:])}"
    line = (
        f"{place}: {takes}, in batches of any size; on {len(inputs)} samples of the run it differs from the"
        f" original by at most {difference:.2g}\n{beside}: its inputs and outputs"
    )
    files = {place: content, beside: description.encode()}
    if beside.is_file() and beside.read_bytes() == files[beside]:  # two formats share a description
        del files[beside]
    return files, line


def to_torch_export(program: torch.export.ExportedProgram, description: str) -> tuple[bytes, Any]:
    """Return a file for `torch.export.load`, and the model loaded from it."""
    buffer = BytesIO()
    torch.export.save(program, buffer, extra_files={"model.json": description})
    return buffer.getvalue(), torch.export.load(BytesIO(buffer.getvalue())).module()


def to_onnx(program: torch.export.ExportedProgram, description: str) -> tuple[bytes, Any]:
    """Return a file for onnxruntime, and a function that runs it."""
    runtime = import_extra("onnx", "onnxruntime")
    import_extra("onnx", "onnxscript")  # which torch's exporter needs
    for name in ("torch.onnx", "onnxscript", "onnx_ir"):
        logging.getLogger(name).setLevel(logging.ERROR)
    names: Any = {"input_names": ["inputs"], "output_names": ["outputs"], "verbose": False, "dynamo": True}
    # the program has the dimension already; this names it
    onnx: Any = torch.onnx.export(program, **names, dynamic_shapes={"inputs": {0: "batch"}})
    onnx.model.metadata_props.update(model=description)
    content = onnx.model_proto.SerializeToString()
    session = runtime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return content, lambda x: torch.tensor(session.run(None, {"inputs": x.numpy()})[0])


def to_hub(model: Predictor, place: Path) -> tuple[dict[Path, bytes], str]:
    """Return weights, a model card and the config."""
    run, described, safetensors = model.run, describe(model), import_extra("hub", "safetensors.torch")
    result = json.loads(read_text(run.folder.result)).get("test", {}) if run.folder.result.exists() else {}
    metrics = "\n".join(f"- {n}: {'not defined' if v is None else f'{v:.4g}'}" for n, v in result.items())
    preview = shorten(read_text(run.folder.data)) if run.folder.data.exists() else ""
    words = {"name": run.config.get("name"), "names": ", ".join(model.names[:20])}
    words |= {"metrics": metrics, "preview": preview}
    card = Path(__file__).with_name("card.md").read_text(encoding="utf-8").format(**described, **words)
    data = {name: value for name, value in run.data.items() if name != "examples"}
    config = {part: run.config.get(part, {}) for part in PARTS}
    config |= {"data": None, "described": {**data, "reader": described["reader"]}}
    tensors = {**run.checkpoint["state_dict"], "examples": model.examples}.items()
    files = {
        place / HUB: safetensors.save({name: tensor.contiguous().clone() for name, tensor in tensors}),
        place / "README.md": printable(card).encode(),
        place / "config.json": to_json(config).encode(),
    }
    return files, f"{place}: {', '.join(path.name for path in files)}; `hf upload NAME {place}` uploads it"


def read_hub(folder: Path) -> SavedRun:
    """Return the run in a folder for the hub; a `ConfigError` if it contains something else."""
    safetensors = import_extra("hub", "safetensors.torch")
    try:
        config, tensors = json.loads(read_text(folder / "config.json")), safetensors.load_file(folder / HUB)
        data = {**config.pop("described"), "examples": tensors.pop("examples", None)}
        if not is_described({"state_dict": tensors, "data": data}):
            raise ValueError("it does not describe its data")
    except Exception as error:  # a crafted file can make safetensors and json raise anything
        expected = f"a folder that export.py wrote ({first_line(error)})"
        raise ConfigError("run", str(folder), expected=expected) from error
    return SavedRun(RunFolder(folder), config, {"state_dict": tensors, "data": data})


def import_extra(extra: str, name: str) -> Any:
    """Return a package of an extra."""
    try:
        return import_module(name)
    except ImportError as error:
        way = f"{name}; `uv sync --extra {extra}` or `pip install -e '.[{extra}]'` ({error})"
        raise ConfigError("format", extra, expected=way) from error
