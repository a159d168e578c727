"""The fields that stand at the root of each command's config, with their types; conf/<name>.yaml explains them."""

from typing import Any, Literal

Weights = Literal["best", "last"]

FIELDS: dict[str, dict[str, Any]] = {
    "train": {
        "name": str,
        "folder": str,
        "seed": int,
        "fold": int | None,
        "folds": int,
        "threads": int | Literal["auto"],
        "compile": bool,
        "init_from": str | None,
        "freeze": list[str],
        "monitor": str,
        "mode": Literal["min", "max"],
        "checkpoint": {"every": str},
        "jobs": int | Literal["auto"],
        "trials": int,
        "resume": bool | str | None,
        "allow": list[str],
    },
    "evaluate": {"run": str | None, "weights": Weights, "split": Literal["train", "val", "test"],
                 "input": str | None, "batch_size": int, "device": str, "allow": list[str]},
    "predict": {"run": str | None, "weights": Weights, "input": str | None, "output": str,
                "keep": list[str], "batch_size": int, "device": str, "overwrite": bool, "allow": list[str]},
    "export": {"run": str | None, "weights": Weights, "format": Literal["onnx", "torch_export", "hub"],
               "output": str | None, "overwrite": bool, "allow": list[str]},
    "compare": {"runs": list[str], "by": str | None, "output": str | None},
}  # fmt: skip
