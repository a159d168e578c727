"""Turns one number for each column into the features that a network sees, with torch alone."""

from collections.abc import Sequence
from math import pi

import torch
from torch import Tensor, nn

from descent.table.columns import Column

DAY = 86_400.0
PERIODS = [365.2425 * DAY, 7 * DAY, DAY]  # of a date, in seconds


class Encoder(nn.Module):
    """Turns one number for each column into the features that a model sees.

    Numbers, booleans and dates come first, and a missing one is the training rows' median. Columns with values
    missing in training have a feature that is 1 where the value is missing. Then come sine and cosine of a
    date's place in the year, the week and the day, and for each category a feature that is 1 where it is. All
    of them are 0 for a category that training never saw. The first `scaled` features can be of any size; the
    others are from -1 to 1.

    Args:
        columns: the rules, in the order of the inputs.
    """

    def __init__(self, columns: Sequence[Column]) -> None:
        super().__init__()
        numbers = [i for i, column in enumerate(columns) if column.kind != "category"]
        words = [len(c.words) + c.flagged if c.kind == "category" else 0 for c in columns]
        self.scaled = len(numbers)
        constants: dict[str, list[int] | list[float]] = {
            "numbers": numbers,
            "fill": [float(columns[i].fill) for i in numbers],
            "flagged": [k for k, i in enumerate(numbers) if columns[i].flagged],
            "dates": [k for k, i in enumerate(numbers) if columns[i].kind == "date"],
            "periods": PERIODS,
            "categories": [i for i, count in enumerate(words) for _ in range(count)],
            "codes": [code for count in words for code in range(count)],
        }
        for name, values in constants.items():
            dtype = torch.float64 if name in ("fill", "periods") else torch.int64
            self.register_buffer(name, torch.tensor(values, dtype=dtype), persistent=False)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the features `(rows, features)` of inputs `(rows, columns)` of a `TableReader`, float64."""
        numbers = inputs[:, self.numbers]
        missing = numbers.isnan()
        numbers = torch.where(missing, self.fill, numbers)
        angles = 2 * pi * (numbers[:, self.dates].unsqueeze(2) / self.periods).frac().flatten(1)
        words = inputs[:, self.categories].eq(self.codes)
        parts = (numbers, missing[:, self.flagged], angles.sin(), angles.cos(), words)
        return torch.cat([part.to(numbers.dtype) for part in parts], 1)
