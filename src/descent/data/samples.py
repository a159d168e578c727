"""A data set is a function that returns `Samples`; `FromSamples` splits, scales and batches them."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass, field
from hashlib import blake2b
from inspect import signature
from math import ceil
from typing import Any, Literal

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor, nn

from descent.data.batches import Batches, Order, Ordered
from descent.data.scaling import Scaling, find_moments, to_deviation
from descent.data.splits import Rows, draw_splits, hold_out, replace_labels
from descent.errors import ConfigError, require
from descent.task import Classes, Labels, Task, Values

Like = (
    Mapping[str, Any] | None
)  # what is taken over from the run whose weights are the start; `SavedRun.like`
FINGERPRINT = 1 << 22  # numbers of the inputs, at most, that are looked at to know them again
EXAMPLES, EXAMPLE_BYTES = 16, 1 << 20  # raw inputs that a checkpoint keeps, and at most how large together
NUMBERS = 1 << 18  # that are worked on at once, so that they stay in the cache
MAPPED = 1 << 28  # bytes of memory-mapped inputs up to which they are read into memory


@dataclass
class Samples:
    """What a data set contains, before it is split and scaled."""

    inputs: Any  # (n, …) of any real dtype, or `descent.data.stored.StoredInputs`
    targets: Tensor  # class indices (n, …); values (n,) or (n, outputs); or answers of 0 and 1, (n, labels)
    names: Sequence[str]  # of the classes, values or labels
    rows: Rows = field(default_factory=dict)  # of splits that are given: "train", "val" and "test" or some
    per_channel: bool = False  # one mean and deviation a channel, (n, channels, …), not one a feature
    encoder: nn.Module | None = None  # from inputs as they are kept to those that are scaled
    scaled: int | None = None  # features of the encoder that are scaled, which come first; None for all
    reader: dict[str, Any] = field(default_factory=lambda: {"kind": "array"})  # how files become inputs again
    preview: str = ""  # lines that say what was understood of a person's own files
    # from these samples to those that are used, where inputs depend on the rows that are trained on
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

    Numbers in memory are scaled here, once and in place. Bytes, inputs with an encoder and large mapped ones
    stay unchanged and are scaled as batches are gathered. `docs/data.md` explains the attributes.

    Args:
        test_fraction: share of the samples for the test; None where they have a test split.
        seed: of the splits, the label noise, the order of each epoch and the augmentation.
        label_noise: share of the training labels that are replaced by another class, drawn uniformly.
        fold: of `folds` parts of the samples, the one that is the test split; None for `test_fraction`.
        task: what the targets are; "auto" takes whole numbers for classes and others for values.
    """

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
        require(0 <= label_noise <= 1, "label_noise", label_noise, "a number from 0 to 1")
        self.batch_size, self.eval_batch_size = batch_size, eval_batch_size
        self.seed, self.drop_last = seed, drop_last
        task = {"classification": "classes", "regression": "values"}.get(task, task)  # type: ignore[assignment]
        with suppress(ValueError):  # a C function, whose arguments are unknown
            arguments |= {"task": task} if "task" in signature(source).parameters else {}
        samples = source(**arguments)
        if not isinstance(samples, Samples):
            expected = f"a function that returns Samples, not {type(samples).__name__}"
            raise ConfigError("source", expected=expected)
        kind = find_kind(samples, task)
        if like is not None:
            from descent.data.like import order_targets

            samples = order_targets(samples, kind, like)
        generator = torch.Generator().manual_seed(seed)
        classes = samples.targets if kind == "classes" and samples.targets.dim() == 1 else None
        given: Rows = {"train": torch.arange(len(samples.targets)), **samples.rows}
        if fold is not None:
            given = hold_out(given, classes, fold, folds, deepcopy(generator))
        fractions = {"test": test_fraction, "val": val_fraction}  # in the order of drawing
        self.rows = draw_splits(given, classes, fractions, generator)
        train = self.rows["train"]
        if samples.fit is not None:
            samples = samples.fit(samples, self.rows, like)
        self.names, self.reader, self.preview = list(samples.names), samples.reader, samples.preview
        most = EXAMPLE_BYTES // max(1, samples.inputs[int(train[0])].nbytes)
        self.examples = pick(samples.inputs, train[: max(1, min(EXAMPLES, most))])
        if self.reader["kind"] == "array":
            self.reader = {"kind": "array", "shape": list(self.examples.shape[1:])}
        self._scale(samples, like)
        self.task, self.targets = take_targets(samples, kind, train, like)
        require(not label_noise or classes is not None, "label_noise", label_noise, "0, without classes")
        if label_noise:
            self.targets = replace_labels(self.targets, train, label_noise, len(self.names), generator)
        self.class_counts: list[int] = []
        if classes is not None:
            self.class_counts = self.targets[train].bincount(minlength=len(self.names)).tolist()
        shape = tuple(self.scaling(self.examples[:1]).shape[1:])
        self.sizes: dict[str, Any] = {"input_shape": shape, "outputs": len(self.names)}
        self.fingerprint = take_fingerprint(self.inputs, self.targets, self.scaling)

    def _scale(self, samples: Samples, like: Like) -> None:
        """Fit the scaling on the training split, and scale what is scaled once; the data is held once."""
        raw, train, encoder = samples.inputs, self.rows["train"], samples.encoder
        if isinstance(raw, Tensor):
            dims = (0, *range(2, raw.dim())) if samples.per_channel else (0,)
            mean, variance = find_moments(raw, train, dims, encoder)
        else:
            mean, variance = raw.moments(train)
        std = to_deviation(variance)
        if samples.scaled is not None:
            mean[samples.scaled :], std[samples.scaled :] = 0, 1
        self.scaling = Scaling(mean, std, encoder)
        if like is not None:
            copy_buffers(self.scaling, like["scaling"])
        self.own_scaling = deepcopy(self.scaling)  # because the module moves its own to its device
        mapped = getattr(raw, "mapped", False)  # a file, which is not written to
        numbers = isinstance(raw, Tensor) and encoder is None and raw.dtype != torch.uint8
        self.inputs, self.scaled_once = raw, numbers and not (mapped and raw.nbytes > MAPPED)
        if self.scaled_once:
            self.inputs = torch.empty(raw.shape) if mapped or raw.dtype != torch.float32 else raw
            size = max(1, NUMBERS // max(1, raw[:1].numel()))
            for block, scaled in zip(raw.split(size), self.inputs.split(size), strict=True):
                scaled.copy_(self.scaling(block))

    def __str__(self) -> str:
        sizes = ", ".join(f"{len(rows):,} {name}" for name, rows in self.rows.items())
        kind = "target values" if self.task.kind == "values" else self.task.kind
        return f"{sizes} samples of shape {self.sizes['input_shape']}, {len(self.names)} {kind}"

    def describe(self) -> dict[str, Any]:
        """Return plain values for a checkpoint: everything needed to read new files and to name outputs."""
        kept = {name: getattr(self, name) for name in ("names", "class_counts", "fingerprint", "reader")}
        return {"task": self.task.describe(), "input_shape": list(self.sizes["input_shape"]), **kept}

    def take(self, split: str) -> tuple[Tensor, Tensor]:
        """Return copies of a split's inputs, as stored, and of its targets, in a fixed order."""
        rows = self.rows[split]
        return pick(self.inputs, rows), self.targets[rows]

    def count_batches(self) -> int:
        """Return the number of training batches per epoch in one process."""
        return ceil(len(self.rows["train"]) / self.batch_size)

    @property
    def ends_with_one(self) -> bool:
        """Whether an epoch's last training batch contains a single sample."""
        return not self.drop_last and len(self.rows["train"]) % self.batch_size == 1 < self.batch_size

    def train_dataloader(self) -> Ordered:
        same = self.trainer is not None and self.trainer.overfit_batches > 0  # type: ignore[attr-defined]
        return self._load("train", self.batch_size, None if same else self.seed)

    def val_dataloader(self) -> Ordered:
        return self._load("val", self.eval_batch_size, None)

    def test_dataloader(self) -> Ordered:
        return self._load("test", self.eval_batch_size, None)

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Return a batch on a device; Lightning would inspect each one, which takes 20 µs."""
        if batch[0].device == device:
            return batch
        return super().transfer_batch_to_device(batch, device, dataloader_idx)

    def _load(self, split: str, batch_size: int, seed: int | None) -> Ordered:
        rows, rank, world_size, device = self.rows[split], 0, 1, torch.device("cpu")
        if self.trainer is not None:
            rank, world_size = self.trainer.global_rank, self.trainer.world_size
            device = self.trainer.strategy.root_device
        if len(rows) < world_size:
            expected = f"at most {len(rows)}, because each process needs a sample of the {split} split"
            raise ConfigError("trainer.devices", world_size, expected=expected)
        order = Order(rows, batch_size, seed, rank, world_size, self.drop_last and split == "train")
        if isinstance(self.inputs, Tensor):
            size = self.inputs.nbytes + self.targets.nbytes
            if device.type == "cuda" and size < torch.cuda.mem_get_info(device)[0] / 2:
                self.inputs, self.targets = self.inputs.to(device), self.targets.to(device)
            scale = None if self.scaled_once else self.own_scaling.to(self.inputs.device)
            return Batches(self.inputs, self.targets, order, scale)
        from descent.data.stored import Loader, StoredSamples

        stored = StoredSamples(self.inputs, self.targets, augmented=split == "train")
        return Loader(stored, order, self.own_scaling.to(device), self.inputs.workers, device)


def find_kind(samples: Samples, task: str) -> str:
    """Return the requested kind of task: "classes", "values" or "labels"."""
    targets = samples.targets
    if not targets.is_floating_point():
        require(task in ("auto", "classes"), "task", task, "classes, because the targets are class indices")
        return "classes"
    require(task != "classes", "task", task, "values or labels, because the targets are real numbers")
    answers = bool(((targets == 0) | (targets == 1)).all())
    unclear = task == "auto" and answers and targets.shape[1] > 1
    require(not unclear, "task", task, "labels or values, because all targets are 0 or 1")
    require(answers or task != "labels", "task", task, "values, because the targets are not only 0 and 1")
    return "labels" if task == "labels" else "values"


def take_targets(samples: Samples, kind: str, train: Tensor, like: Like) -> tuple[Task, Tensor]:
    """Return the task, and the targets as the loss gets them."""
    targets, names = samples.targets, list(samples.names)
    if kind == "classes":
        return Classes(names), targets
    if kind == "labels":
        return Labels(names), targets.float()
    mean, variance = find_moments(targets, train, (0,))
    values = Values(names, mean, to_deviation(variance))
    if like is not None and names == list(like["names"]):
        copy_buffers(values, like["task_state"])
    return values, values.standardise(targets)


def copy_buffers(module: nn.Module, buffers: Mapping[str, Tensor]) -> None:
    """Copy another run's mean and deviation where they fit."""
    for name, ours in module.named_buffers():
        theirs = buffers.get(name)
        if theirs is not None and theirs.shape == ours.shape:
            ours.copy_(theirs)


def pick(inputs: Any, rows: Tensor) -> Tensor:
    """Return a copy of some rows of the inputs."""
    return inputs[rows] if isinstance(inputs, Tensor) else torch.stack([inputs[row] for row in rows.tolist()])


def take_fingerprint(inputs: Any, targets: Tensor, scaling: Scaling) -> str:
    """Hash the targets, evenly spaced rows of the inputs, and the mean and deviation of all inputs."""
    step = 1 + len(inputs) * inputs[0].numel() // FINGERPRINT
    digest = blake2b(digest_size=16)
    for part in (targets, *scaling.buffers(), pick(inputs, torch.arange(0, len(inputs), step))):
        digest.update(part.contiguous().numpy().tobytes())
    return digest.hexdigest()
