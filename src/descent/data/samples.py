"""A data set is a function that returns `Samples`; `FromSamples` splits, scales and batches them."""

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from hashlib import blake2b
from inspect import signature
from math import ceil
from typing import Any, Literal

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor, nn

from descent.data.batches import Batches, Order
from descent.data.scaling import Scaling, count_rows, find_moments
from descent.data.splits import Rows, draw_splits
from descent.errors import ConfigError, require
from descent.task import Classes, Labels, Task, Values

Like = Mapping[str, Any] | None  # what is adopted from the run whose weights are the start; `SavedRun.like`
FINGERPRINT = 1 << 22  # numbers of the inputs, at most, that are hashed to recognise them
EXAMPLES, EXAMPLE_BYTES = 16, 1 << 20  # raw inputs that a checkpoint keeps, and at most how large together


@dataclass
class Samples:
    """What a data set contains, before it is split and scaled."""

    # (n, …) of any real dtype: a tensor; or what is indexed like one, with `augment`, which changes a sample
    # at random in training or is None, and `workers`, a number of processes
    inputs: Any
    targets: Tensor  # class indices (n, …); values (n,) or (n, outputs); or answers of 0 and 1, (n, labels)
    names: Sequence[str]  # of the classes, values or labels
    rows: Rows = field(default_factory=dict)  # of splits that are given: "train", "val" and "test" or some
    per_channel: bool = False  # one mean and deviation a channel, (n, channels, …), not one a feature
    encoder: nn.Module | None = None  # inputs to features; the first `encoder.scaled` are scaled, or all
    reader: dict[str, Any] = field(default_factory=dict)  # how files become inputs again, unless as arrays
    preview: str = ""  # lines that say how the user's own files were interpreted
    # from these samples to those that are used, if inputs depend on the training rows
    fit: "Callable[[Samples, Rows, Like], Samples] | None" = None

    def __post_init__(self) -> None:
        n, outputs = len(self.targets), len(self.names)
        if self.targets.is_floating_point():
            self.targets = self.targets.reshape(n, -1)
            fits = self.targets.shape[1] == outputs
        else:
            self.targets = self.targets.long()
            # a row that is in no given split may have no class
            dealt = torch.cat([self.targets[rows] for rows in self.rows.values()] or [self.targets])
            fits = dealt.dim() != 1 or bool(((dealt >= 0) & (dealt < outputs)).all())
        if len(self.inputs) != n or not fits:
            shape = tuple(self.targets.shape)
            raise ValueError(f"{len(self.inputs)} inputs, targets {shape}, {outputs} names")


class FromSamples(LightningDataModule):
    """Training, validation and test data from the samples that a function returns.

    Numbers in memory are scaled here, once and in place. Bytes, inputs with an encoder and mapped files stay
    unchanged and are scaled as batches are gathered. conf/data/samples.yaml explains the arguments,
    docs/data.md the attributes.
    """

    inputs: Any
    targets: Tensor  # as the loss gets them

    def __init__(
        self,
        source: Callable[..., Samples],
        batch_size: int,
        eval_batch_size: int,
        val_fraction: float,
        test_fraction: float | None,
        seed: int,
        label_noise: float,
        fold: int | None = None,
        folds: int = 5,
        task: Literal["auto", "classes", "classification", "values", "regression", "labels"] = "auto",
        drop_last: bool = False,
        like: Like = None,
        **arguments: Any,
    ) -> None:
        super().__init__()
        for name, size in (("batch_size", batch_size), ("eval_batch_size", eval_batch_size)):
            require(size >= 1, name, size, "a whole number of at least 1")
        self.batch_size, self.eval_batch_size = batch_size, eval_batch_size
        self.seed, self.drop_last = seed, drop_last
        samples, kind = read_samples(source, arguments, task)
        if like is not None:
            from descent.data.like import order_targets

            samples = order_targets(samples, kind, like)
        classes = samples.targets if kind == "classes" and samples.targets.dim() == 1 else None
        most = 0 if classes is None else 1  # without classes, there are no labels to replace
        require(0 <= label_noise <= most, "label_noise", label_noise, f"a number from 0 to {most}")
        given: Rows = {"train": torch.arange(len(samples.targets)), **samples.rows}
        if fold is not None:
            from descent.data.altered import hold_out

            given = hold_out(given, classes, fold, folds, seed)
        generator = torch.Generator().manual_seed(seed)
        self.rows = draw_splits(given, classes, generator, test_fraction, val_fraction)
        if samples.fit is not None:
            samples = samples.fit(samples, self.rows, like)
        self.names, self.preview = list(samples.names), samples.preview
        train = self.rows["train"]
        count = EXAMPLE_BYTES // max(1, samples.inputs[train[:1]].nbytes)
        self.examples = samples.inputs[train[: max(1, min(EXAMPLES, count))]]
        self.reader = samples.reader or {"kind": "array", "shape": list(self.examples.shape[1:])}
        self._scale(samples, kind, like)
        if label_noise:
            from descent.data.altered import replace_labels

            self.targets = replace_labels(self.targets, train, label_noise, len(self.names), generator)
        n, shape = len(self.names), tuple(self.scaling(self.examples[:1]).shape[1:])
        self.sizes: dict[str, Any] = {"input_shape": shape, "outputs": n}
        self.class_counts = [] if classes is None else self.targets[train].bincount(minlength=n).tolist()
        self.fingerprint = take_fingerprint(self.inputs, self.targets, self.scaling)

    def _scale(self, samples: Samples, kind: str, like: Like) -> None:
        """Fit scaling and task to the training split alone, and scale what is scaled once, in place."""
        raw, train, encoder = samples.inputs, self.rows["train"], samples.encoder
        dims = (0, *range(2, self.examples.dim())) if samples.per_channel else (0,)
        mean, std = find_moments(raw, train, dims, encoder)
        if encoder is not None and hasattr(encoder, "scaled"):
            mean[encoder.scaled :], std[encoder.scaled :] = 0, 1
        self.scaling = Scaling(mean, std, encoder)
        self.task: Task = Labels(self.names) if kind == "labels" else Classes(self.names)
        if kind == "values":
            self.task = Values(self.names, *find_moments(samples.targets, train))
        if like is not None:
            from descent.data.like import adopt_units

            adopt_units(self.scaling, self.task, like)
        self.targets = samples.targets.float() if kind == "labels" else samples.targets
        if isinstance(self.task, Values):
            self.targets = self.task.standardise(self.targets)
        numbers = isinstance(raw, Tensor) and raw.dtype != torch.uint8
        self.inputs, self.scaled_once = raw, numbers and encoder is None
        if self.scaled_once:
            self.inputs = raw if raw.dtype == torch.float32 else torch.empty(raw.shape)
            size = count_rows(raw[:1])
            for block, scaled in zip(raw.split(size), self.inputs.split(size), strict=True):
                scaled.copy_(self.scaling(block))

    def __str__(self) -> str:
        sizes = ", ".join(f"{len(rows):,} {name}" for name, rows in self.rows.items())
        values = "target value" if len(self.names) == 1 else "target values"
        kind = values if self.task.kind == "values" else self.task.kind
        return f"{sizes} samples of shape {self.sizes['input_shape']}, {len(self.names)} {kind}"

    def describe(self) -> dict[str, Any]:
        """Return plain values for a checkpoint: everything needed to read new files and to name outputs."""
        kept = {name: getattr(self, name) for name in ("names", "class_counts", "fingerprint", "reader")}
        return {"task": self.task.describe(), "input_shape": list(self.sizes["input_shape"]), **kept}

    def count_batches(self) -> int:
        """Return the number of training batches per epoch in one process."""
        return ceil(len(self.rows["train"]) / self.batch_size)

    @property
    def ends_with_one(self) -> bool:
        """Whether an epoch's last training batch contains a single sample."""
        return not self.drop_last and len(self.rows["train"]) % self.batch_size == 1 < self.batch_size

    def train_dataloader(self) -> Any:
        same = self.trainer is not None and self.trainer.overfit_batches > 0  # type: ignore[attr-defined]
        return self._load("train", self.batch_size, None if same else self.seed)

    def val_dataloader(self) -> Any:
        return self._load("val", self.eval_batch_size, None)

    def test_dataloader(self) -> Any:
        return self._load("test", self.eval_batch_size, None)

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Return a batch on a device; Lightning would inspect each one, which takes 20 µs."""
        if batch[0].device == device:
            return batch
        return super().transfer_batch_to_device(batch, device, dataloader_idx)

    def _load(self, split: str, batch_size: int, seed: int | None) -> Any:
        rows, trainer, rank, world_size, device = self.rows[split], self.trainer, 0, 1, torch.device("cpu")
        if trainer is not None:
            rank, world_size, device = trainer.global_rank, trainer.world_size, trainer.strategy.root_device
        expected = f"at most {len(rows)}, because each process needs a sample of the {split} split"
        require(len(rows) >= world_size, "trainer.devices", world_size, expected)
        order = Order(rows, batch_size, seed, rank, world_size, self.drop_last and split == "train")
        if not isinstance(self.inputs, Tensor):
            from descent.data.stored import Loader

            augment, workers = self.inputs.augment if split == "train" else None, self.inputs.workers
            scaling = deepcopy(self.scaling).to(device)
            return Loader(self.inputs, self.targets, order, scaling, augment, workers, device)
        size = self.inputs.nbytes + self.targets.nbytes
        if device.type == "cuda" and size < torch.cuda.mem_get_info(device)[0] / 2:
            self.inputs, self.targets = self.inputs.to(device), self.targets.to(device)
        # a copy, because the module moves its own to its device
        scale = None if self.scaled_once else deepcopy(self.scaling).to(self.inputs.device)
        return Batches(self.inputs, self.targets, order, scale)


def read_samples(source: Callable[..., Samples], arguments: dict[str, Any], task: str) -> tuple[Samples, str]:
    """Return what a source returns, and what its targets are: "classes", "values" or "labels"."""
    task = {"classification": "classes", "regression": "values"}.get(task, task)
    own = {"task": task} if "task" in signature(source).parameters else {}
    samples = source(**arguments, **own)
    if not isinstance(samples, Samples):
        found = type(samples).__name__
        raise ConfigError("source", expected=f"a function that returns Samples, not {found}")
    if not samples.targets.is_floating_point():
        kinds, reason = ["classes"], "class indices"
    elif ((samples.targets == 0) | (samples.targets == 1)).all():
        kinds, reason = ["labels", "values"], "0 or 1"
    else:
        kinds, reason = ["values"], "real numbers"
    clear = len(kinds) == 1 or len(samples.names) == 1
    expected = f"{' or '.join(kinds)}, because all targets are {reason}"
    require(task in kinds or (task == "auto" and clear), "task", task, expected)
    return samples, kinds[-1] if task == "auto" else task


def take_fingerprint(inputs: Any, targets: Tensor, scaling: Scaling) -> str:
    """Hash the targets, evenly spaced rows of the inputs, and the mean and deviation of all inputs."""
    step = 1 + len(inputs) * inputs[torch.arange(1)].numel() // FINGERPRINT
    digest = blake2b(digest_size=16)
    for part in (targets, *scaling.buffers(), inputs[torch.arange(0, len(inputs), step)]):
        digest.update(part.contiguous().numpy().tobytes())
    return digest.hexdigest()
