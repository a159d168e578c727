"""The type of each field at the root of a command's config; conf/<name>.yaml explains the fields."""

from typing import Any, Literal

SAVED = {"run": str | None, "weights": Literal["best", "last"], "allow": list[str]}
FIELDS: dict[str, dict[str, Any]] = {
    "train": {
        "name": str, "folder": str, "seed": int, "fold": int | None, "folds": int,
        "threads": int | Literal["auto"], "compile": bool, "init_from": str | None, "freeze": list[str],
        "monitor": str, "mode": Literal["min", "max"], "checkpoint": dict[str, str],
        "jobs": int | Literal["auto"], "trials": int, "resume": bool | str | None, "allow": list[str],
    },
    "evaluate": {
        **SAVED, "split": Literal["train", "val", "test"], "input": str | None, "batch_size": int,
        "device": str,
    },
    "predict": {
        **SAVED, "input": str | None, "output": str, "keep": list[str], "batch_size": int, "device": str,
        "overwrite": bool,
    },
    "export": {
        **SAVED, "format": Literal["onnx", "torch_export", "hub"], "output": str | None, "overwrite": bool,
    },
    "compare": {"runs": list[str], "by": str | None, "output": str | None},
}  # fmt: skip
