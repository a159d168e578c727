"""A variational autoencoder: encodes pictures as a few numbers, and draws new ones from random numbers."""

from collections.abc import Callable, Iterable, Sequence
from math import prod
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer


class AutoEncoder(nn.Module):
    """From a picture to mean and log variance of each latent number, and from latent numbers to a picture.

    Args:
        input_shape: shape of a picture.
        hidden: units of the one hidden layer on each side.
        latent: how many numbers describe a picture.
    """

    def __init__(self, input_shape: Sequence[int], hidden: int, latent: int) -> None:
        super().__init__()
        size, self.latent = prod(input_shape), latent
        self.encoder = nn.Sequential(
            nn.Flatten(), nn.Linear(size, hidden), nn.ReLU(), nn.Linear(hidden, 2 * latent)
        )
        self.decoder = nn.Sequential(
            nn.Linear(latent, hidden), nn.ReLU(), nn.Linear(hidden, size), nn.Unflatten(1, tuple(input_shape))
        )

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return pictures rebuilt from drawn latent numbers, and the latent mean and log variance."""
        mean, log_variance = self.encoder(pictures).chunk(2, dim=1)
        latent = mean + torch.randn_like(mean) * (log_variance / 2).exp()
        return self.decoder(latent), mean, log_variance


class VAE(LightningModule):
    """Auto-encoding variational Bayes (Kingma & Welling, 2014).

    Args:
        model: an `AutoEncoder`.
        optimizer: takes parameters and returns the optimizer.
        beta: how much the latent numbers have to look like standard normal ones (Higgins et al., 2017).
    """

    def __init__(
        self, model: AutoEncoder, optimizer: Callable[[Iterable[Any]], Optimizer], beta: float
    ) -> None:
        super().__init__()
        self.model, self.optimizer, self.beta = model, optimizer, beta

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return self.step(batch, "train")

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.step(batch, "val")

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.step(batch, "test")

    def step(self, batch: tuple[Tensor, Tensor], stage: str) -> Tensor:
        """Return the loss, a bound on the log likelihood; it ignores the digits' classes."""
        pictures, _ = batch
        again, mean, log_variance = self.model(pictures)
        error = F.mse_loss(again, pictures, reduction="sum") / (2 * len(pictures))
        divergence = (mean.square() + log_variance.exp() - 1 - log_variance).sum(1).mean() / 2
        values = {"loss": error + self.beta * divergence, "error": error, "divergence": divergence}
        named = {f"{stage}/{name}": value for name, value in values.items()}
        self.log_dict(named, on_step=False, on_epoch=True, batch_size=len(pictures))
        return values["loss"]

    def configure_optimizers(self) -> Optimizer:
        return self.optimizer(self.model.parameters())

    def on_test_end(self) -> None:
        """Print a picture that nobody has drawn."""
        latent = torch.randn(1, self.model.latent, generator=torch.Generator().manual_seed(0))
        with torch.inference_mode():
            picture = self.model.decoder(latent.to(self.device))[0, 0].cpu()
        scaled = (picture - picture.min()) / (picture.max() - picture.min())
        for row in (scaled * 4).round().int().tolist():
            print("".join(" ░▒▓█"[shade] * 2 for shade in row))
