"""The fields that stand at the root of each command's config, each with its type; conf/<name>.yaml explains them."""

from dataclasses import dataclass
from typing import Any, Literal


@dataclass
class Every:
    """When a run is saved."""

    every: str


@dataclass
class Train:
    """Fields of conf/train.yaml, besides its groups."""

    name: str
    folder: str
    seed: int
    fold: int | None
    folds: int
    threads: int | Literal["auto"]
    compile: bool
    init_from: str | None
    freeze: list[str]
    monitor: str
    mode: Literal["min", "max"]
    checkpoint: Every
    jobs: int | Literal["auto"]
    trials: int
    resume: bool | str | None
    allow: list[str]


@dataclass
class Evaluate:
    """Fields of conf/evaluate.yaml."""

    run: str | None
    weights: Literal["best", "last"]
    split: Literal["train", "val", "test"]
    input: str | None
    batch_size: int
    device: str
    allow: list[str]


@dataclass
class Predict:
    """Fields of conf/predict.yaml."""

    run: str | None
    weights: Literal["best", "last"]
    input: str | None
    output: str
    keep: list[str]
    batch_size: int
    device: str
    overwrite: bool
    allow: list[str]


@dataclass
class Export:
    """Fields of conf/export.yaml."""

    run: str | None
    weights: Literal["best", "last"]
    format: Literal["onnx", "torch_export", "hub"]
    output: str | None
    overwrite: bool
    allow: list[str]


@dataclass
class Compare:
    """Fields of conf/compare.yaml."""

    runs: list[str]
    by: str | None
    output: str | None


FIELDS: dict[str, Any] = {
    "train": Train,
    "evaluate": Evaluate,
    "predict": Predict,
    "export": Export,
    "compare": Compare,
}
