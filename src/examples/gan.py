"""Two competing networks in plain Lightning, without any import of `descent`."""

from math import pi

import torch
from lightning.pytorch import LightningDataModule, LightningModule
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.optim import Adam, Optimizer
from torch.utils.data import DataLoader, TensorDataset


class Ring(LightningDataModule):
    """Points in the plane near a circle of radius 1."""

    def __init__(self, points: int, batch_size: int) -> None:
        super().__init__()
        self.points, self.batch_size = points, batch_size

    def setup(self, stage: str) -> None:
        generator = torch.Generator().manual_seed(0)
        angle = 2 * pi * torch.rand(self.points, generator=generator)
        circle = torch.stack([angle.cos(), angle.sin()], dim=1)
        self.ring = circle + 0.05 * torch.randn(self.points, 2, generator=generator)

    def train_dataloader(self) -> DataLoader:
        return DataLoader(TensorDataset(self.ring), self.batch_size, shuffle=True)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(TensorDataset(self.ring), len(self.ring))

    test_dataloader = val_dataloader


class GAN(LightningModule):
    """A generative adversarial network (Goodfellow et al., 2014), by manual optimization.

    Args:
        latent: numbers from which a point is generated.
        hidden: units of the two hidden layers of either network.
        lr: learning rate of both networks.
    """

    def __init__(self, latent: int, hidden: int, lr: float) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.latent, self.lr = latent, lr
        self.generator, self.discriminator = network(latent, hidden, 2), network(2, hidden, 1)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> None:
        real = batch[0]
        for_generator, for_discriminator = self.optimizers()  # type: ignore[attr-defined]

        made = self(len(real))
        truth = judge(self.discriminator(real), real=True)
        loss = truth + judge(self.discriminator(made.detach()), real=False)
        for_discriminator.zero_grad()
        self.manual_backward(loss)
        for_discriminator.step()

        deceit = judge(self.discriminator(made), real=True)
        for_generator.zero_grad()
        self.manual_backward(deceit)
        for_generator.step()
        self.log_dict({"train/discriminator": loss, "train/generator": deceit}, on_step=False, on_epoch=True)

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.log("val/distance", energy_distance(batch[0], self(len(batch[0]))))

    def test_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.log("test/distance", energy_distance(batch[0], self(len(batch[0]))))

    def forward(self, count: int) -> Tensor:
        """Return `count` new points, `(count, 2)`."""
        return self.generator(torch.randn(count, self.latent, device=self.device))

    def configure_optimizers(self) -> list[Optimizer]:
        networks = (self.generator, self.discriminator)
        return [Adam(network.parameters(), self.lr, betas=(0.5, 0.9)) for network in networks]


def network(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    """Return two hidden layers."""
    first, second = nn.Linear(inputs, hidden), nn.Linear(hidden, hidden)
    return nn.Sequential(first, nn.LeakyReLU(0.2), second, nn.LeakyReLU(0.2), nn.Linear(hidden, outputs))


def judge(logits: Tensor, real: bool) -> Tensor:
    """Return the loss of classifying points as real or generated."""
    return binary_cross_entropy_with_logits(logits, torch.full_like(logits, float(real)))


def energy_distance(one: Tensor, other: Tensor) -> Tensor:
    """Return the distance between two sets of points, 0 if they are the same (Székely & Rizzo, 2013)."""
    within = torch.cdist(one, one).mean() + torch.cdist(other, other).mean()
    return 2 * torch.cdist(one, other).mean() - within
