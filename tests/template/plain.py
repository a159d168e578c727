"""Modules, data and loaders as in plain Lightning, which know nothing of this template; and a kill."""

import os
import random
import signal
from collections.abc import Iterator
from typing import Any

import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from descent.data.digits import digits


class Kill(Callback):
    """Sends this process a signal after the step of the environment's KILL_AT, once."""

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        if str(trainer.global_step) == os.environ.get("KILL_AT") and os.environ.pop("KILL_AT"):
            os.kill(os.getpid(), int(os.environ.get("KILL_WITH", signal.SIGKILL)))


class Module(LightningModule):
    """Logs a metric of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.Dropout(0.3), nn.Linear(16, 10))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = nn.functional.cross_entropy(self.net(batch[0]), batch[1])
        self.log("train_loss", loss, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_hits", (self.net(batch[0]).argmax(1) == batch[1]).float().mean())

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.log("test_hits", (self.net(batch[0]).argmax(1) == batch[1]).float().mean())

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=1e-3)


class Gan(LightningModule):
    """Two optimizers, in turns, by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.maker, self.judge = nn.Linear(4, 64), nn.Linear(64, 1)
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:
        inputs, right = batch[0].flatten(1), nn.functional.binary_cross_entropy_with_logits
        made = self.maker(torch.randn(len(inputs), 4))
        for number, optimizer in enumerate(self.optimizers()):  # type: ignore[arg-type]
            real, fake = self.judge(inputs), self.judge(made if number == 0 else made.detach())
            loss = right(fake, torch.ones_like(fake)) if number == 0 else right(real, torch.ones_like(real))
            loss = loss + number * right(fake, torch.zeros_like(fake))
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()
            self.log(f"train/loss{number}", loss, on_step=False, on_epoch=True)

    def configure_optimizers(self) -> Any:
        return [torch.optim.Adam(part.parameters(), lr=1e-3) for part in (self.maker, self.judge)], []


class Data(LightningDataModule):
    """The digits in torch's own loader, in an order that it draws anew for each epoch.

    Args:
        workers: of the loader.
        kind: "shuffled", "stream" without a length, or "stateful".
    """

    def __init__(self, workers: int = 0, kind: str = "shuffled") -> None:
        super().__init__()
        samples = digits()
        inputs, targets = samples.inputs.float() / 16, samples.targets  # type: ignore[union-attr]
        self.workers, self.kind = workers, kind
        self.sets = [TensorDataset(inputs[a:b], targets[a:b]) for a, b in ((0, 800), (800, 900), (900, 999))]

    def train_dataloader(self) -> Any:
        if self.kind == "stream":
            return DataLoader(Stream(self.sets[0]), batch_size=32, num_workers=self.workers)
        kind = Stateful if self.kind == "stateful" else DataLoader
        return kind(self.sets[0], batch_size=32, shuffle=True, num_workers=self.workers)

    def val_dataloader(self) -> Any:
        return DataLoader(self.sets[1], batch_size=50)

    def test_dataloader(self) -> Any:
        return DataLoader(self.sets[2], batch_size=50)


class Stream(IterableDataset[Any]):
    """Samples in an order that is drawn while they are read."""

    def __init__(self, samples: TensorDataset) -> None:
        self.samples = samples

    def __iter__(self) -> Iterator[Any]:
        yield from (self.samples[row] for row in random.sample(range(320), 320))


class Stateful(DataLoader[Any]):
    """A loader with a state, as torchdata's StatefulDataLoader."""

    order: list[int]
    at = first = 0

    def __iter__(self) -> Any:
        if not self.first:
            self.order = torch.randperm(len(self.dataset)).tolist()  # type: ignore[arg-type]
        self.at, self.first = self.first, 0
        for start in range(self.at * 32, len(self.order), 32):
            self.at += 1
            rows = self.order[start : start + 32]
            yield [torch.stack(part) for part in zip(*(self.dataset[row] for row in rows), strict=True)]

    def state_dict(self) -> dict[str, Any]:
        return {"order": self.order, "at": self.at}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.order, self.first = state["order"], state["at"]


def net() -> nn.Module:
    """A network that names nothing of the data."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.Dropout(0.3), nn.Linear(16, 10))
