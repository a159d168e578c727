"""A run as Hugging Face's hub takes it: model.safetensors, config.json and a model card; and read from there."""

import json
from pathlib import Path
from types import ModuleType
from typing import Any

from descent.data.described import shorten
from descent.errors import ConfigError, first_line
from descent.inference.output import open_output, require_free
from descent.inference.predictor import UNITS, Predictor, printable
from descent.run.folder import RunFolder
from descent.run.saved import SavedRun, find_fault
from descent.run.trust import read_text

WEIGHTS, CONFIG, CARD = "model.safetensors", "config.json", "README.md"
PARTS = ("model", "loss", "metrics", "module")  # of the config, by which a run is loaded and evaluated
CARD_TEXT = """---
library_name: descent
tags: [pytorch, lightning, {kind}]
---
# {name}

Takes {inputs}; returns {outputs} of {names}.

| metric | test split |
|---|---|
{metrics}

```python
from descent.inference import load  # of the project that trained it; huggingface_hub.snapshot_download fetches this folder

model = load("{folder}")
model.predict("new.csv")  # or an array of raw inputs
```

Trained with {choices}, on this data:

```
{data}
```
"""


def write_hub(model: Predictor, output: str | None, overwrite: bool) -> str:
    """Write a folder for the hub, its config last, without which it is none; return a line about it.

    Raises:
        ConfigError: safetensors is missing, or the folder cannot be written to, or has such files already.
    """
    torch_files, run = import_safetensors(), model.run
    folder = Path(output or run.folder.path / "hub").expanduser()
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise ConfigError(
            "output", str(folder), expected=f"a folder that can be made ({error.strerror})"
        ) from error
    data = {name: value for name, value in run.data.items() if name != "examples"}
    data["reader"] = {name: value for name, value in data["reader"].items() if name != "path"} | {"path": ""}
    config = {"config": {part: run.config[part] for part in PARTS if part in run.config}, "data": data}
    tensors = {**run.checkpoint["state_dict"], "examples": model.examples}
    files = {
        WEIGHTS: torch_files.save({name: tensor.contiguous().clone() for name, tensor in tensors.items()}),
        CARD: printable(write_card(model, folder.name)).encode(),
        CONFIG: printable(json.dumps(config, ensure_ascii=False, indent=2) + "\n").encode(),
    }
    for name in files:
        require_free(str(folder / name), overwrite, str(run.folder.path))
    for name, content in files.items():
        with open_output(str(folder / name)) as stream:
            stream.write(content)
    return f"{folder}: {', '.join(files)}; upload it with: hf upload NAME {folder}"


def write_card(model: Predictor, folder: str) -> str:
    """Return the model card: what the model takes, its metrics, how it is loaded, and what it learned from."""
    run, examples = model.run, model.examples
    result = json.loads(read_text(run.folder.result)) if run.folder.result.exists() else {}
    shown = {n: "not defined" if v is None else f"{v:.4g}" for n, v in result.get("test", {}).items()}
    return CARD_TEXT.format(
        kind=model.task.kind or "other",
        name=run.config.get("name", folder),
        inputs=f"{str(examples.dtype).removeprefix('torch.')} inputs {('batch', *examples.shape[1:])}",
        outputs=UNITS.get(model.task.kind, "predictions"),
        names=", ".join(model.names[:20]) + (", …" if len(model.names) > 20 else ""),
        metrics="\n".join(f"| {name.removeprefix('test/')} | {value} |" for name, value in shown.items()),
        folder=folder,
        choices=", ".join(f"{group}={word}" for group, word in run.config.get("choices", {}).items()),
        data=shorten(read_text(run.folder.data)) if run.folder.data.exists() else "not described",
    )


def is_hub(folder: str | Path) -> bool:
    """Whether a folder is one for the hub."""
    return (Path(folder).expanduser() / WEIGHTS).is_file()


def read_hub(folder: str | Path) -> SavedRun:
    """Return the run that a folder for the hub contains.

    Raises:
        ConfigError: safetensors is missing, or the files are of something else.
    """
    torch_files, path = import_safetensors(), Path(folder).expanduser()
    try:
        described: dict[str, Any] = json.loads(read_text(path / CONFIG))
        tensors = torch_files.load_file(path / WEIGHTS)
        config, data = (
            dict(described["config"]),
            {**described["data"], "examples": tensors.pop("examples", None)},
        )
        fault = find_fault({"state_dict": tensors, "data": data})
    except ConfigError:
        raise
    except Exception as error:  # a crafted file makes safetensors and json stumble in ways of their own
        fault = first_line(error)
    if fault:
        raise ConfigError("run", str(folder), expected=f"a folder that export.py wrote ({fault})")
    return SavedRun(RunFolder(path), config, {"state_dict": tensors, "data": data})


def import_safetensors() -> ModuleType:
    """Return the package's part for torch, or raise a `ConfigError` that says how to install it."""
    try:
        import safetensors.torch
    except ImportError as error:
        way = "safetensors; `uv sync --extra hub` or `pip install -e '.[hub]'`"
        raise ConfigError("format", "hub", expected=f"{way} ({error})") from error
    return safetensors.torch
