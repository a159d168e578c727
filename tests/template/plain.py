"""What people bring from plain Lightning and torch, which knows a task of this project alone; and a kill."""

import os
import random
import resource
import signal
from collections.abc import Callable, Iterator
from typing import Any

import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    TensorDataset,
    WeightedRandomSampler,
    default_collate,
    get_worker_info,
)

from descent.task import Tokens


class Kill(Callback):
    """Sends this process a signal after the step of the environment's KILL_AT, once."""

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        if str(trainer.global_step) == os.environ.get("KILL_AT") and os.environ.pop("KILL_AT"):
            os.kill(os.getpid(), int(os.environ.get("KILL_WITH", signal.SIGKILL)))


class Seven(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net: nn.Module = nn.LazyLinear(2)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return F.cross_entropy(self.net(batch[0].flatten(1)), batch[1])

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.log("val_loss", self.training_step(batch, batch_idx))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), 0.02)


class Module(Seven):
    """Draws random numbers in training, and has a test and a metric of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.net = net()

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.log("val_hits", (self.net(batch[0]).argmax(1) == batch[1]).float().mean())

    def test_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.log("test_hits", (self.net(batch[0]).argmax(1) == batch[1]).float().mean())


def net() -> nn.Module:
    """A network that names nothing of the data."""
    return nn.Sequential(nn.Linear(2, 16), nn.Dropout(0.3), nn.Linear(16, 2))


class Pair(LightningModule):
    """A GAN at its smallest: two optimizers, stepped by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.maker, self.judge = nn.Linear(2, 2), nn.Linear(2, 1)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> None:
        for optimizer, sign in zip(self.optimizers(), (1, -1), strict=True):
            made = self.judge(self.maker(torch.randn_like(batch[0])))
            optimizer.zero_grad()
            self.manual_backward(sign * (self.judge(batch[0]) - made).mean())
            optimizer.step()

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.log("val_gap", (self.judge(batch[0]) - self.judge(self.maker(batch[0]))).mean())

    def test_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.log("test_gap", (self.judge(batch[0]) - self.judge(self.maker(batch[0]))).mean())

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        return [torch.optim.Adam(part.parameters()) for part in (self.maker, self.judge)]


class TwoLoaders(LightningDataModule):
    """Points of the plane, and on which side of a line they are."""

    def __init__(self, collate: Callable[[list[Any]], Any] | None = None, rows: int = 200) -> None:
        super().__init__()
        inputs = torch.randn(rows, 2, generator=torch.Generator().manual_seed(0))
        self.dataset: Dataset = TensorDataset(inputs, (inputs.sum(1) > 0).long())
        self.collate = collate

    def train_dataloader(self) -> DataLoader:
        return DataLoader(self.dataset, 20, shuffle=True, collate_fn=self.collate)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(self.dataset, 50, collate_fn=self.collate)


class Tested(TwoLoaders):
    def test_dataloader(self) -> DataLoader:
        return DataLoader(self.dataset, 200, collate_fn=self.collate)


class Data(Tested):
    """Points in an order that is drawn anew for each epoch: "shuffled", a "stream", or "stateful"."""

    def __init__(self, workers: int = 0, kind: str = "shuffled") -> None:
        super().__init__(rows=800)
        self.workers, self.kind = workers, kind

    def train_dataloader(self) -> DataLoader:
        workers: Any = (
            {"num_workers": self.workers, "multiprocessing_context": "fork"} if self.workers else {}
        )
        if self.kind == "stream":
            return DataLoader(Stream(self.dataset), 32, **workers)
        kind = Stateful if self.kind == "stateful" else DataLoader
        return kind(self.dataset, 32, shuffle=True, **workers)


class Stream(IterableDataset):
    """Samples of which nobody knows the end, in an order that is drawn while they are read."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        worker = get_worker_info()
        yield from (self.dataset[row] for row in random.sample(range(800), 160 if worker else 320))


class Stateful(DataLoader):
    """A loader with a state, as torchdata's StatefulDataLoader."""

    order: list[int]
    at = first = 0

    def __iter__(self) -> Any:
        if not self.first:
            self.order = torch.randperm(len(self.dataset)).tolist()  # type: ignore[arg-type]
        self.at, self.first = self.first, 0
        for rows in torch.tensor(self.order).split(32)[self.at :]:
            self.at += 1
            yield self.dataset[rows]

    def state_dict(self) -> dict[str, Any]:
        return {"order": self.order, "at": self.at}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.order, self.first = state["order"], state["at"]


class Weighted(Tested):
    """One side of the line is drawn three times as often."""

    def train_dataloader(self) -> DataLoader:
        weights = 1 + 2 * self.dataset[:][1]
        return DataLoader(self.dataset, 20, sampler=WeightedRandomSampler(weights.tolist(), 200))


class TwoTargets(Tested):
    """Of each point, the side and the distance from the origin."""

    def __init__(self) -> None:
        super().__init__()
        self.collate = split_targets


def split_targets(rows: list[Any]) -> tuple[Tensor, dict[str, Tensor]]:
    inputs, sides = default_collate(rows)
    return inputs, {"side": sides, "distance": inputs.norm(dim=1)}


class TwoHeads(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.body, self.side, self.distance = nn.Linear(2, width), nn.Linear(width, 2), nn.Linear(width, 1)

    def forward(self, inputs: Tensor) -> dict[str, Tensor]:
        seen = self.body(inputs).relu()
        return {"side": self.side(seen), "distance": self.distance(seen)[:, 0]}


class BothLosses(nn.Module):
    def forward(self, input: dict[str, Tensor], target: dict[str, Tensor]) -> Tensor:
        sides = F.cross_entropy(input["side"], target["side"])
        return sides + F.mse_loss(input["distance"], target["distance"])


class Lines(LightningDataModule):
    """Lines of 3 to 11 of six letters; what a model reads and what it predicts are filled by 0."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        lengths = torch.randint(3, 12, (200,), generator=generator).tolist()
        self.lines = [torch.randint(1, 7, (length,), generator=generator) for length in lengths]
        self.task = Tokens(["", *"abcdef"], pad=0)

    def train_dataloader(self) -> DataLoader:
        return DataLoader(self.lines[50:], 16, shuffle=True, collate_fn=pad)  # type: ignore[arg-type]

    def val_dataloader(self) -> DataLoader:
        return DataLoader(self.lines[:50], 16, collate_fn=pad)  # type: ignore[arg-type]


def pad(lines: list[Tensor]) -> tuple[Tensor, Tensor]:
    whole = pad_sequence(lines, batch_first=True)
    return whole[:, :-1], whole[:, 1:]


class Reader(nn.Module):
    def __init__(self, vocabulary: int, width: int) -> None:
        super().__init__()
        self.letters, self.head = nn.Embedding(vocabulary, width), nn.Linear(width, vocabulary)
        self.memory = nn.GRU(width, width, batch_first=True)

    def forward(self, letters: Tensor) -> Tensor:
        return self.head(self.memory(self.letters(letters))[0])


class UsedUp(TwoLoaders):
    """Its training data can be read once."""

    def train_dataloader(self) -> DataLoader:
        return DataLoader(Once(self.dataset), 20)


class Once(IterableDataset):
    def __init__(self, dataset: Dataset) -> None:
        self.rows = (dataset[row] for row in range(200))

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        return self.rows


class OfHuggingFace(Tested):
    def __init__(self) -> None:
        import pyarrow
        from datasets import Dataset as Table

        super().__init__(collate=lambda rows: default_collate([tuple(row.values()) for row in rows]))
        inputs, targets = self.dataset[:]
        columns = pyarrow.table({"inputs": inputs.tolist(), "targets": targets.tolist()})
        self.dataset = Table(columns, fingerprint="points")  # type: ignore[assignment]
        self.dataset.set_format("torch")  # type: ignore[attr-defined]


class OfTorchvision(Tested):
    def __init__(self) -> None:
        from torchvision.datasets import FakeData
        from torchvision.transforms.v2 import Compose, Grayscale, ToDtype, ToImage

        super().__init__()
        change = Compose([ToImage(), Grayscale(), ToDtype(torch.float32, scale=True)])
        self.dataset = FakeData(200, (3, 4, 4), num_classes=2, transform=change)


class Pixels(TwoLoaders):
    """Pictures whose pixels are of 19 classes; all outputs of an epoch would take 280 MB."""

    def __init__(self) -> None:
        super().__init__()
        masks = torch.randint(0, 19, (400, 96, 96), generator=torch.Generator().manual_seed(0))
        self.dataset = TensorDataset(masks[:, None].float(), masks)


def mix(batch: list[Any]) -> tuple[Tensor, Tensor]:
    """Return a batch in which each sample is half another one, and its target as well."""
    inputs, targets = default_collate(batch)
    soft = F.one_hot(targets, 2).float()
    return (inputs + inputs.flip(0)) / 2, (soft + soft.flip(0)) / 2


class PeakMemory(Callback):
    """Prints by how many MB the process has grown at most since training began."""

    def on_fit_start(self, *args: object) -> None:
        self.before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    def on_fit_end(self, *args: object) -> None:
        print(f"grew by {(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - self.before) // 1024} MB")
