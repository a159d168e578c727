"""What people bring from plain Lightning and plain torch; nothing here knows of this project."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, IterableDataset, TensorDataset, get_worker_info


class Seven(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(2, 2))

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return F.cross_entropy(self.net(batch[0].float()), batch[1])

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.log("val_loss", self.training_step(batch, batch_idx))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), 0.02)


class TwoLoaders(LightningDataModule):
    """Points of the plane, and on which side of a line they are."""

    def __init__(self, points: int) -> None:
        super().__init__()
        inputs = torch.randn(points, 2, generator=torch.Generator().manual_seed(0))
        self.dataset = TensorDataset(inputs, (inputs.sum(1) > 0).long())

    def train_dataloader(self) -> DataLoader:
        return DataLoader(self.dataset, 20, shuffle=True)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(self.dataset, 50)


class Stream(IterableDataset):
    """The same points without an end that anybody knows; each worker has a share."""

    def __init__(self, dataset: TensorDataset) -> None:
        self.dataset = dataset

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        worker = get_worker_info()
        first, step = (worker.id, worker.num_workers) if worker else (0, 1)
        for row in range(first, len(self.dataset), step):
            yield self.dataset[row]


class Streams(TwoLoaders):
    def train_dataloader(self) -> DataLoader:
        return DataLoader(Stream(self.dataset), 20, num_workers=2)


class StopOnce(Callback):
    """Sends this process SIGTERM in the middle of an epoch, but not again when the run has resumed."""

    def __init__(self, epoch: int, batch: int) -> None:
        self.epoch, self.batch = epoch, batch

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: object) -> None:
        here = trainer.current_epoch == self.epoch and trainer.fit_loop.batch_idx == self.batch
        if here and not Path("stopped").exists():
            Path("stopped").touch()
            os.kill(os.getpid(), signal.SIGTERM)
