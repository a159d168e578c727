"""The tutorial's hand-written loop, kept as the reference that the template is held against."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader
from tqdm import tqdm


class Loss(nn.Module):
    """Mean absolute error."""

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return (1 / len(input)) * torch.sum(torch.abs(input - target))


def train(
    model: nn.Module,
    train_loader: DataLoader,
    val_loader: DataLoader,
    criterion: Callable[[Tensor, Tensor], Tensor],
    optimizer: Optimizer,
    epochs: int,
) -> list[tuple[float, ...]]:
    """Train and validate; prints a line after each epoch and returns its four figures."""
    history: list[tuple[float, ...]] = []
    for epoch in range(epochs):
        model.train()
        train_loss, train_correct, train_total = 0.0, 0, 0
        for inputs, labels in tqdm(train_loader, desc=f"Epoch {epoch + 1}/{epochs}", leave=False):
            optimizer.zero_grad()
            outputs = model(inputs)
            loss = criterion(outputs, labels)
            loss.backward()
            optimizer.step()
            train_loss += loss.item() * inputs.size(0)
            predicted = outputs.argmax(1)
            train_correct += (predicted == labels).sum().item()
            train_total += labels.size(0)

        model.eval()
        val_loss, val_correct, val_total = 0.0, 0, 0
        with torch.no_grad():
            for inputs, labels in val_loader:
                outputs = model(inputs)
                loss = criterion(outputs, labels)
                val_loss += loss.item() * inputs.size(0)
                predicted = outputs.argmax(1)
                val_correct += (predicted == labels).sum().item()
                val_total += labels.size(0)

        figures: tuple[float, ...] = train_loss / train_total, train_correct / train_total
        figures += val_loss / val_total, val_correct / val_total
        history.append(figures)
        line = "Epoch {}/{}, Train Loss: {:.4f}, Train Acc: {:.4f}, Val Loss: {:.4f}, Val Acc: {:.4f}"
        print(line.format(epoch + 1, epochs, *figures))
    return history
