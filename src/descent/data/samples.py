"""A data set is a function that returns `Samples`, and `FromSamples` splits, scales and batches those."""

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from hashlib import blake2b
from math import ceil, prod
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from descent.data.batches import Batches, Loader, Order
from descent.data.like import order_targets, take_scaling
from descent.data.module import DataModule
from descent.data.splits import draw_splits, hold_out, replace_labels
from descent.errors import ConfigError, require
from descent.scaling import Activation, Scaling

FINGERPRINT = 1 << 22  # numbers of the inputs, at most, that are looked at to know them again
EXAMPLES, EXAMPLE_BYTES = 16, 1 << 20  # raw inputs that a checkpoint keeps, and at most how large together
NUMBERS = 1 << 18  # that are worked on at once, so that they stay in the cache


class StoredInputs(Protocol):
    """Inputs that are read one by one, because they do not fit in memory or are augmented.

    Attributes:
        augment: a random change of one training sample, or None. It may use torch, numpy and random.
        workers: processes that read.
    """

    augment: Callable[[Tensor], Tensor] | None
    workers: int

    def __len__(self) -> int:
        """Number of samples."""

    def __getitem__(self, row: int) -> Tensor:
        """Return one sample, uint8 `(channels, height, width)`."""

    def moments(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and mean square a channel over some rows, float64 `(channels, 1, 1)`."""


@dataclass
class Samples:
    """What a data set holds, before it is split and scaled.

    Attributes:
        inputs: shape `(n, ...)`, of numbers or bytes, which stay bytes in memory; or read one by one.
        targets: class indices, int64 `(n,)`; or values, float32 `(n, outputs)`, where one may come as `(n,)`.
        names: of the classes, or of the target values.
        rows: of splits that are given, as `descent.data.splits.draw_splits` takes them.
        per_channel: one mean and deviation a channel, `(n, channels, ...)`, not one a feature.
        encoder: from inputs as they are kept to those that are scaled, such as categories to ones and zeros.
        scaled: number of features of the encoder that are scaled, which come first; None for all.
        reader: plain values that say how files become inputs again; see `descent.data.readers`.
        preview: lines that say what was understood of a person's own files.
        fit: for inputs that depend on what is trained on: given these samples, the rows of the splits, and
            `like` (see `descent.data.like`) or None, returns the samples as they are used.

    Raises:
        ValueError: inputs, targets and names do not fit each other.
    """

    inputs: Tensor | StoredInputs
    targets: Tensor
    names: Sequence[str]
    rows: Mapping[str, Tensor] = field(default_factory=dict)
    per_channel: bool = False
    encoder: nn.Module | None = None
    scaled: int | None = None
    reader: dict[str, Any] = field(default_factory=lambda: {"kind": "array"})
    preview: str = ""
    fit: "Callable[[Samples, Mapping[str, Tensor], Mapping[str, Any] | None], Samples] | None" = None

    def __post_init__(self) -> None:
        n, outputs = len(self.targets), len(self.names)
        if isinstance(self.inputs, Tensor) and self.inputs.is_floating_point():
            self.inputs = self.inputs.float()
        if self.targets.is_floating_point():
            self.targets = self.targets.float().reshape(n, -1)
            fits = self.targets.shape[1] == outputs
        else:
            self.targets = self.targets.long()
            dealt = self.targets  # a row that is in no given split may have no class
            if self.rows:
                dealt = torch.cat([self.targets[rows] for rows in self.rows.values()])
            fits = dealt.dim() == 1 and bool(((dealt >= 0) & (dealt < outputs)).all())
        if len(self.inputs) != n or not fits:
            raise ValueError(
                f"{len(self.inputs)} inputs, targets {tuple(self.targets.shape)}, {outputs} names"
            )


class FromSamples(DataModule):
    """The samples that a function returns, as training, validation and test data.

    Numbers in memory are scaled here, once and in place. Bytes, and inputs with an encoder, stay as they are
    and are scaled as batches are gathered.

    Args:
        source: given `arguments`, returns `Samples`.
        batch_size: samples of a training batch.
        eval_batch_size: samples of a batch in validation and test, which keep no gradients.
        val_fraction: share of the samples for validation, of every class alike, where none are given.
        test_fraction: the same for the test; None where the samples have a test split.
        seed: of the splits, the label noise, the order of each epoch and the augmentation.
        label_noise: share of the training labels that are replaced by another class, drawn uniformly;
            validation and test labels stay right.
        fold: of `folds` parts of the samples, the one that is the test split; None for `test_fraction`.
        folds: how many parts there are.
        like: what is taken over from the run whose weights are the start; see `descent.data.like`.
        arguments: of the source.

    Raises:
        ConfigError: a size below 1, fractions that leave a split without samples, or noise in regression.
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
        fold: int | None,
        folds: int,
        like: Mapping[str, Any] | None = None,
        **arguments: Any,
    ) -> None:
        super().__init__()
        require(batch_size >= 1, "batch_size", batch_size, "a whole number of at least 1")
        require(eval_batch_size >= 1, "eval_batch_size", eval_batch_size, "a whole number of at least 1")
        require(0 <= label_noise <= 1, "label_noise", label_noise, "a number from 0 to 1")
        self.batch_size, self.eval_batch_size, self.seed = batch_size, eval_batch_size, seed
        samples = source(**arguments)
        if not isinstance(samples, Samples):
            kind = type(samples).__name__
            raise ConfigError("source", expected=f"a function that returns Samples, not {kind}")
        if like is not None:
            samples = order_targets(samples, like)
        generator = torch.Generator().manual_seed(seed)
        given = samples.rows
        if fold is not None:
            given = hold_out(samples.targets, given, fold, folds, torch.Generator().manual_seed(seed))
        self.rows = draw_splits(samples.targets, given, val_fraction, test_fraction, generator)
        if samples.fit is not None:
            samples = samples.fit(samples, self.rows, like)
        self._fill(samples)
        self.examples = take_examples(samples.inputs, self.rows["train"])
        self._scale(samples, like)
        if self.task == "classification":
            if label_noise:
                labels, train = samples.targets, self.rows["train"]
                self.targets = replace_labels(labels, train, label_noise, self.outputs, generator)
            self.class_counts = self.targets[self.rows["train"]].bincount(minlength=self.outputs).tolist()
        elif label_noise:
            raise ConfigError("label_noise", label_noise, expected="0 in regression, which has no classes")
        self.fingerprint = take_fingerprint(self.inputs, self.targets, self.scaling)

    def _fill(self, samples: Samples) -> None:
        """Fill what models, losses and checkpoints are told."""
        self.task = "regression" if samples.targets.is_floating_point() else "classification"
        self.names, self.outputs, self.class_counts = list(samples.names), len(samples.names), []
        self.reader, self.preview = samples.reader, samples.preview
        first = samples.inputs[0].unsqueeze(0)
        encoded = first if samples.encoder is None else samples.encoder(first)
        self.input_shape = tuple(encoded.shape[1:])

    def _scale(self, samples: Samples, like: Mapping[str, Any] | None) -> None:
        """Fit the scaling on the training split, and scale what is scaled once; the data is held once."""
        self.scaling = fit_scaling(samples, self.rows["train"])
        if like is not None:
            take_scaling(self.scaling, like, self.names == like["names"])
        # a copy, for the module may move its own to another device or give it another dtype
        self.own_scaling = deepcopy(self.scaling)
        self.inputs, self.targets = samples.inputs, self.scaling.scale_targets(samples.targets)
        self.scaled_once = False
        if isinstance(self.inputs, Tensor) and self.inputs.is_floating_point() and samples.encoder is None:
            for block in self.inputs.split(max(1, NUMBERS // max(1, self.inputs[:1].numel()))):
                block.copy_(self.scaling.scale(block))
            self.scaled_once = True

    def __str__(self) -> str:
        sizes = ", ".join(f"{len(rows):,} {name}" for name, rows in self.rows.items())
        kind = f"{self.outputs} classes" if self.task == "classification" else f"{self.outputs} target values"
        return f"{sizes} samples of shape {self.input_shape}, {kind}"

    def take(self, split: str) -> tuple[Tensor, Tensor]:
        """Return a copy of the inputs, as they are kept, and of the targets of a split, in a fixed order."""
        rows = self.rows[split]
        return pick(self.inputs, rows), self.targets[rows]

    def count_batches(self) -> int:
        """Return the training batches of an epoch in one process."""
        return ceil(len(self.rows["train"]) / self.batch_size)

    def train_dataloader(self) -> Batches | Loader:
        """Return the training batches, in an order of each epoch's own."""
        # overfit_batches: the same batches each epoch
        same = self.trainer is not None and self.trainer.overfit_batches > 0  # type: ignore[attr-defined]
        return self._load("train", self.batch_size, None if same else self.seed)

    def val_dataloader(self) -> Batches | Loader:
        """Return the validation batches."""
        return self._load("val", self.eval_batch_size, None)

    def test_dataloader(self) -> Batches | Loader:
        """Return the test batches."""
        return self._load("test", self.eval_batch_size, None)

    def _load(self, split: str, batch_size: int, seed: int | None) -> Batches | Loader:
        rank, world_size, device = 0, 1, torch.device("cpu")
        if self.trainer is not None:
            rank, world_size = self.trainer.global_rank, self.trainer.world_size
            device = self.trainer.strategy.root_device
        order = Order(self.rows[split], batch_size, seed, rank, world_size)
        if isinstance(self.inputs, Tensor):
            self.inputs, self.targets = put_on_device(self.inputs, self.targets, device)
            scale = None if self.scaled_once else self.own_scaling.to(self.inputs.device).scale
            return Batches(self.inputs, self.targets, order, scale)
        stored = StoredSamples(self.inputs, self.targets, augmented=split == "train")
        return Loader(stored, order, self.own_scaling.to(device).scale, self.inputs.workers, device)


class StoredSamples(Dataset[tuple[Tensor, Tensor]]):
    """One stored input and its target by row.

    Args:
        inputs: of all samples.
        targets: of all samples.
        augmented: whether inputs are augmented.
    """

    def __init__(self, inputs: StoredInputs, targets: Tensor, augmented: bool) -> None:
        self.inputs, self.targets = inputs, targets
        self.augment = inputs.augment if augmented else None

    def __getitem__(self, row: int) -> tuple[Tensor, Tensor]:
        sample = self.inputs[row]
        return sample if self.augment is None else self.augment(sample), self.targets[row]


def fit_scaling(samples: Samples, train: Tensor) -> Scaling:
    """Return the scaling with mean and deviation of the training rows, int64."""
    if isinstance(samples.inputs, Tensor):
        dims = (0, *range(2, samples.inputs.dim())) if samples.per_channel else (0,)
        mean, std = mean_and_std(*find_moments(samples.inputs, train, dims, samples.encoder))
    else:
        mean, std = mean_and_std(*samples.inputs.moments(train))
    if samples.scaled is not None:
        mean[samples.scaled :], std[samples.scaled :] = 0, 1
    target_mean, target_std = torch.zeros(1), torch.ones(1)
    if samples.targets.is_floating_point():
        target_mean, target_std = mean_and_std(*find_moments(samples.targets, train, (0,)))
    activation: Activation = "none" if samples.targets.is_floating_point() else "softmax"
    return Scaling(mean, std, target_mean, target_std, samples.encoder, activation)


def find_moments(
    values: Tensor, rows: Tensor, dims: tuple[int, ...], encoder: nn.Module | None = None
) -> tuple[Tensor, Tensor]:
    """Return mean and mean square of some rows over `dims`, float64, shaped to broadcast against one sample.

    Blocks of rows are summed in float64: exact enough for any length, without a second copy of the data.
    """
    total = square = torch.zeros(1, dtype=torch.float64)
    for block in rows.split(max(1, 4 * NUMBERS // max(1, values[:1].numel()))):
        part = (values[block] if encoder is None else encoder(values[block])).double()
        total = total + part.sum(dims, keepdim=True)
        square = square + part.square().sum(dims, keepdim=True)
    n = len(rows) * prod(values.shape[d] for d in dims if d)
    return (total / n)[0], (square / n)[0]


def mean_and_std(mean: Tensor, square: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation, float32, of a mean and a mean square, float64.

    A constant feature gets a deviation of 1: it becomes 0, and not NaN.
    """
    std = (square - mean.square()).clamp(min=0).sqrt()
    std = torch.where(std > 1e-6 * (1 + mean.abs()), std, torch.ones_like(std))
    return mean.float(), std.float()


def pick(inputs: Tensor | StoredInputs, rows: Tensor) -> Tensor:
    """Return a copy of the inputs of some rows, int64."""
    if isinstance(inputs, Tensor):
        return inputs[rows]
    return torch.stack([inputs[row] for row in rows.tolist()])


def take_examples(inputs: Tensor | StoredInputs, train: Tensor) -> Tensor:
    """Return up to `EXAMPLES` raw inputs of the training rows, int64, as long as they are not large."""
    first = inputs[int(train[0])]
    return pick(inputs, train[: max(1, min(EXAMPLES, EXAMPLE_BYTES // max(1, first.nbytes)))])


def take_fingerprint(inputs: Tensor | StoredInputs, targets: Tensor, scaling: Scaling) -> str:
    """Hash the targets, rows spread over the inputs, and the mean and deviation that all of them have."""
    step = 1 + len(inputs) * inputs[0].numel() // FINGERPRINT
    digest = blake2b(digest_size=16)
    for part in (targets, *scaling.buffers(), pick(inputs, torch.arange(0, len(inputs), step))):
        digest.update(part.contiguous().numpy().tobytes())
    return digest.hexdigest()


def put_on_device(inputs: Tensor, targets: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
    """Move the data to the GPU where it takes at most half of the free memory; else leave it as it is."""
    if device.type == "cuda" and inputs.nbytes + targets.nbytes < torch.cuda.mem_get_info(device)[0] / 2:
        return inputs.to(device), targets.to(device)
    return inputs, targets
