"""A character language model that learns Python's own help texts and writes some text at the end."""

from pydoc_data.topics import topics
from typing import Any

import torch
from lightning.pytorch import Callback, LightningDataModule, Trainer
from torch import Tensor, nn
from torch.nn import functional as F

from descent.data.batches import Batches, Order
from descent.task import Tokens


class Characters(LightningDataModule):
    """The text cut into windows; the target at each position is the character that follows.

    Args:
        length: characters per window.
        batch_size: windows per batch.
        seed: for the order of the windows.
    """

    def __init__(self, length: int, batch_size: int, seed: int) -> None:
        super().__init__()
        text = "".join(topics.values())
        self.task = Tokens(sorted(set(text)))  # what targets mean, for the loss, the metrics and the model
        self.sizes = {"length": length}  # the model may name it; `vocabulary` comes from the task
        self.batch_size, self.seed = batch_size, seed
        number = {letter: i for i, letter in enumerate(self.task.names)}
        codes = torch.tensor([number[letter] for letter in text])
        self.windows = codes[: len(codes) // (length + 1) * (length + 1)].view(-1, length + 1)
        tenth = len(self.windows) // 10  # the last tenth is for test, the one before it for validation
        self.rows = torch.arange(len(self.windows)).split([8 * tenth + len(self.windows) % 10, tenth, tenth])

    def train_dataloader(self) -> Batches:
        return self.load(0, self.seed)

    def val_dataloader(self) -> Batches:
        return self.load(1)

    def test_dataloader(self) -> Batches:
        return self.load(2)

    def load(self, split: int, seed: int | None = None) -> Batches:
        order = Order(self.rows[split], self.batch_size, seed)  # a function of seed and epoch
        return Batches(self.windows[:, :-1], self.windows[:, 1:], order)


class Block(nn.Module):
    """Each position looks back at those before it, then thinks; `(n, length, width)` in and out."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.look, self.gather = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.think = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.look(self.before(x)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        dropout = self.dropout if self.training else 0.0
        seen = F.scaled_dot_product_attention(query, key, value, dropout_p=dropout, is_causal=True)
        x = x + self.gather(seen.transpose(1, 2).flatten(2))
        return x + F.dropout(self.think(self.between(x)), self.dropout, self.training)


class GPT(nn.Module):
    """A small transformer (Vaswani et al., 2017; Radford et al., 2018).

    Args:
        vocabulary: number of characters.
        length: the longest text that it looks back on, in characters.
        width: numbers that describe a position.
        depth: blocks.
        heads: attention heads.
        dropout: share of activations set to zero in training.
    """

    def __init__(
        self, vocabulary: int, length: int, width: int, depth: int, heads: int, dropout: float
    ) -> None:
        super().__init__()
        self.letters, self.places = nn.Embedding(vocabulary, width), nn.Embedding(length, width)
        self.blocks = nn.Sequential(*(Block(width, heads, dropout) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, vocabulary)

    def forward(self, letters: Tensor) -> Tensor:
        """Return logits `(n, length, vocabulary)` of the next character, from characters `(n, length)`."""
        places = torch.arange(letters.shape[1], device=letters.device)
        return self.head(self.norm(self.blocks(self.letters(letters) + self.places(places))))

    @torch.inference_mode()
    def write(self, letters: Tensor, count: int, generator: torch.Generator) -> Tensor:
        """Return characters `(length,)`, followed by `count` drawn ones."""
        for _ in range(count):
            logits = self(letters[None, -self.places.num_embeddings :])[0, -1]
            drawn = torch.multinomial(logits.softmax(0).cpu(), 1, generator=generator)
            letters = torch.cat([letters, drawn.to(letters)])
        return letters


class Writer(Callback):
    """Writes a text with the best weights, after the test."""

    def __init__(self, start: str, count: int, seed: int) -> None:
        self.start, self.count, self.seed = start, count, seed

    def on_test_end(self, trainer: Trainer, pl_module: Any) -> None:
        model, names = pl_module.model, pl_module.task.names
        start = torch.tensor([names.index(letter) for letter in self.start], device=pl_module.device)
        letters = model.write(start, self.count, torch.Generator().manual_seed(self.seed))
        print("".join(names[i] for i in letters.tolist()), flush=True)
