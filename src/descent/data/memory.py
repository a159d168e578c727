"""Data that fits in memory: split by a seed, normalised with the training split, batched without workers."""

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor

from descent.data.batches import Batches
from descent.data.columns import Encoder
from descent.errors import require

BLOCK = 1 << 20  # numbers that are worked on at once


class InMemory(LightningDataModule):
    """Tensors as training, validation and test data, and what the rest is sized from.

    What it holds is in `task` ("classification" or "regression"), `input_shape`, `outputs` (classes, or
    target values), `classes` or `target_names`, and the statistics of the training split: `input_mean`,
    `input_std`, `target_mean` and `target_std`, which broadcast against a batch, in `statistics`.
    Batches hold normalised inputs, and standardised targets in regression.

    Args:
        inputs: shape `(n, ...)`, floating point or uint8. Floating point is normalised here, once and in
            place; bytes stay bytes in memory and are normalised as they are gathered.
        targets: class indices, int64 `(n,)`, or values, float32 `(n, outputs)`.
        names: the classes, or the target values.
        batch_size: samples a training batch.
        eval_batch_size: samples a batch in validation and test, which keep no gradients.
        val_fraction: share of the samples for validation; of every class alike.
        test_fraction: the same, for the test; None where `test` has the official one.
        seed: of the splits, the label noise and the order of each epoch.
        label_noise: share of the training labels that are replaced by another class, drawn uniformly
            ("symmetric noise"); validation and test labels stay right.
        per_channel: one mean and deviation a channel, `(n, channels, height, width)`, not one a feature.
        test: inputs and targets of an official test split.
        splits: rows of the training, validation and test data, int64, in place of a split by fractions.
        encoder: from inputs as they are kept to what is normalised, such as categories to ones and zeros;
            applied as batches are gathered.
        reader: plain values that say how files become inputs again, kept in the checkpoint.
        preview: lines that say what was understood of a file.

    Raises:
        ConfigError: a size below 1, or fractions that leave a split without samples.
    """

    def __init__(
        self,
        inputs: Tensor,
        targets: Tensor,
        names: Sequence[str],
        *,
        batch_size: int,
        eval_batch_size: int,
        val_fraction: float,
        test_fraction: float | None,
        seed: int,
        label_noise: float = 0.0,
        per_channel: bool = False,
        test: tuple[Tensor, Tensor] | None = None,
        splits: tuple[Tensor, Tensor, Tensor] | None = None,
        encoder: Encoder | None = None,
        reader: Mapping[str, Any] | None = None,
        preview: str = "",
    ) -> None:
        super().__init__()
        require(batch_size >= 1, "batch_size", batch_size, "a whole number of at least 1")
        require(eval_batch_size >= 1, "eval_batch_size", eval_batch_size, "a whole number of at least 1")
        require(0 <= label_noise <= 1, "label_noise", label_noise, "a number from 0 to 1")
        self.batch_size, self.eval_batch_size, self.seed = batch_size, eval_batch_size, seed
        self.task = "regression" if targets.is_floating_point() else "classification"
        self.encoder, self.reader, self.preview = encoder, dict(reader or {"kind": "array"}), preview
        encoded = inputs[:1] if encoder is None else encoder(inputs[:1])
        self.input_shape, self.outputs = tuple(encoded.shape[1:]), len(names)
        self.classes = list(names) if self.task == "classification" else []
        self.target_names = [] if self.task == "classification" else list(names)

        generator = torch.Generator().manual_seed(seed)
        if splits is None:
            splits = random_splits(targets, val_fraction, test_fraction, generator)
        of_train, of_val, of_test = splits

        dims = (0, *range(2, inputs.dim())) if per_channel else (0,)
        self.input_mean, self.input_std = mean_and_std(inputs, of_train, dims, encoder)
        if encoder is not None:  # the features behind those are ones and zeros, sines and cosines
            self.input_mean[encoder.scaled :], self.input_std[encoder.scaled :] = 0, 1
        self.target_mean, self.target_std = torch.zeros(1), torch.ones(1)
        if self.task == "regression":
            self.target_mean, self.target_std = mean_and_std(targets, of_train, (0,))
            targets = (targets - self.target_mean) / self.target_std
            test = test and (test[0], (test[1] - self.target_mean) / self.target_std)
        for part in (inputs, test[0]) if test else (inputs,):
            if part.is_floating_point() and encoder is None:
                part.sub_(self.input_mean).div_(self.input_std)
        self.statistics = {
            "input_mean": self.input_mean,
            "input_std": self.input_std,
            "target_mean": self.target_mean,
            "target_std": self.target_std,
        }
        if label_noise and self.task == "classification":
            noisy = torch.rand(len(of_train), generator=generator) < label_noise
            shift = torch.randint(1, self.outputs, (len(of_train),), generator=generator)
            right, targets = targets[of_train], targets.clone()
            targets[of_train] = torch.where(noisy, (right + shift) % self.outputs, right)
        self.inputs, self.targets = inputs, targets  # held once: a split is the numbers of its rows
        self.rows = {"train": of_train, "val": of_val} | ({"test": of_test} if test is None else {})
        self.official_test = test

    @property
    def train(self) -> tuple[Tensor, Tensor]:
        """A copy of the training inputs and targets, in a fixed order."""
        return self.inputs[self.rows["train"]], self.targets[self.rows["train"]]

    @property
    def val(self) -> tuple[Tensor, Tensor]:
        return self.inputs[self.rows["val"]], self.targets[self.rows["val"]]

    @property
    def test(self) -> tuple[Tensor, Tensor]:
        if self.official_test is not None:
            return self.official_test
        return self.inputs[self.rows["test"]], self.targets[self.rows["test"]]

    def __str__(self) -> str:
        lengths = {name: len(rows) for name, rows in self.rows.items()}
        if self.official_test is not None:
            lengths["test"] = len(self.official_test[1])
        sizes = ", ".join(f"{length:,} {name}" for name, length in lengths.items())
        kind = f"{self.outputs} classes" if self.task == "classification" else f"{self.outputs} target values"
        return f"{sizes} samples of shape {self.input_shape}, {kind}"

    def state_dict(self) -> dict[str, Any]:
        """What Lightning keeps in each checkpoint: all that reading new files and naming outputs needs."""
        names = ("task", "input_shape", "outputs", "classes", "target_names", "reader")
        return {name: getattr(self, name) for name in names}

    def train_dataloader(self) -> Batches:
        # overfit_batches: the same batches each epoch
        same = self.trainer is not None and self.trainer.overfit_batches > 0  # type: ignore[attr-defined]
        return self._batches("train", self.batch_size, seed=None if same else self.seed)

    def val_dataloader(self) -> Batches:
        return self._batches("val", self.eval_batch_size)

    def test_dataloader(self) -> Batches:
        return self._batches("test", self.eval_batch_size)

    def _batches(self, split: str, batch_size: int, seed: int | None = None) -> Batches:
        rank, world_size, device = 0, 1, torch.device("cpu")
        if self.trainer is not None:
            rank, world_size = self.trainer.global_rank, self.trainer.world_size
            device = self.trainer.strategy.root_device
        rows = self.rows.get(split)
        if rows is None:
            assert self.official_test is not None
            inputs, targets = self.official_test = on_device(*self.official_test, device)
        else:
            inputs, targets = self.inputs, self.targets = on_device(self.inputs, self.targets, device)
        transform = None if inputs.is_floating_point() and self.encoder is None else self.normalise
        return Batches(inputs, targets, batch_size, seed, transform, rank, world_size, rows)

    def normalise(self, inputs: Tensor) -> Tensor:
        """Raw inputs to what the model is trained on, float32; on the device that they are on."""
        self.input_mean, self.input_std = self.input_mean.to(inputs.device), self.input_std.to(inputs.device)
        if self.encoder is not None:
            inputs = self.encoder.to(inputs.device)(inputs)
        return inputs.float().sub_(self.input_mean).div_(self.input_std)


def random_splits(
    targets: Tensor, val_fraction: float, test_fraction: float | None, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Rows for training, validation and test, int64, drawn at random and evenly over the classes.

    Args:
        targets: class indices, int64, or values.
        val_fraction, test_fraction: shares of the rows; None leaves the test without any.
        generator: what draws them.

    Raises:
        ConfigError: a split that would have no samples.
    """
    n = len(targets)
    require(0 < val_fraction < 1, "val_fraction", val_fraction, "a number between 0 and 1")
    of_test = order = torch.randperm(n, generator=generator)
    n_test = 0
    if test_fraction is not None:
        require(0 < test_fraction < 1, "test_fraction", test_fraction, "a number between 0 and 1")
        n_test = round(n * test_fraction)
        require(n_test >= 1, "test_fraction", test_fraction, f"at least one of {n} samples")
    of_test, order = deal(order, targets, n_test)
    n_val = round(n * val_fraction)
    require(n_val >= 1, "val_fraction", val_fraction, f"at least one of {n} samples")
    room = f"less than {len(order) / n:g}, to leave samples to train on"
    require(n_val < len(order), "val_fraction", val_fraction, room)
    of_val, of_train = deal(order, targets, n_val)
    return of_train, of_val, of_test


def draw_missing(
    train: Tensor,
    parts: Mapping[str, Tensor],
    targets: Tensor,
    val_fraction: float,
    test_fraction: float,
    seed: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Rows for training, validation and test, of which the last two are drawn from the first where none
    are given.

    Args:
        train: rows to train on, before others are drawn from them.
        parts: the given rows of "val" and "test", which may be none.
        targets: of all rows; class indices are drawn evenly.
        val_fraction, test_fraction: shares of `train`, for what is drawn.
        seed: of what is drawn.

    Raises:
        ConfigError: a split that would have no rows.
    """
    n = len(train)
    train = train[torch.randperm(n, generator=torch.Generator().manual_seed(seed))]
    parts = dict(parts)
    for key, fraction in (("test", test_fraction), ("val", val_fraction)):
        if len(parts[key]) == 0:
            size = round(n * fraction)
            fits = 0 < fraction < 1 and 1 <= size < len(train)
            require(
                fits, f"{key}_fraction", fraction, f"a share of {n} samples that leaves some on each side"
            )
            parts[key], train = deal(train, targets, size)
    return train, parts["val"], parts["test"]


def deal(order: Tensor, targets: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Take n of the samples in `order`, evenly over the classes; returns those and the others."""
    by_class = (
        torch.arange(len(order)) if targets.is_floating_point() else targets[order].argsort(stable=True)
    )
    taken = torch.zeros(len(order), dtype=torch.bool)
    taken[by_class[((torch.arange(n) + 0.5) * (len(order) / max(1, n))).long()]] = True
    return order[taken], order[~taken]


def mean_and_std(
    values: Tensor, rows: Tensor, dims: tuple[int, ...], encoder: Callable[[Tensor], Tensor] | None = None
) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of some rows over `dims`, shaped to broadcast against one sample.

    A constant feature gets a deviation of 1: it becomes 0, and not NaN.
    """
    # blocks of rows, in float64: exact enough for any length, without a second copy of the data
    total = square = torch.zeros(1, dtype=torch.float64)
    for block in rows.split(max(1, BLOCK // max(1, values[:1].numel()))):
        part = (values[block] if encoder is None else encoder(values[block])).double()
        total = total + part.sum(dims, keepdim=True)
        square = square + part.square().sum(dims, keepdim=True)
    n = len(rows) * prod(values.shape[d] for d in dims if d)
    mean = total / n
    std = (square / n - mean.square()).clamp(min=0).sqrt()
    std = torch.where(std > 1e-6 * (1 + mean.abs()), std, torch.ones_like(std))
    return mean[0].float(), std[0].float()


def on_device(inputs: Tensor, targets: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
    """The data on the GPU where it takes at most half of the free memory; else as it is."""
    if device.type == "cuda" and inputs.nbytes + targets.nbytes < torch.cuda.mem_get_info(device)[0] / 2:
        return inputs.to(device), targets.to(device)
    return inputs, targets
