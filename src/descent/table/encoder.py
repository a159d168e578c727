"""Turns one number for each column into the features that a network sees, with torch alone."""

from collections.abc import Sequence
from math import pi

import torch
from torch import Tensor, nn

from descent.data.table.columns import Column

YEAR, WEEK, DAY = 365.2425, 7.0, 1.0  # periods of a date, in days


class Encoder(nn.Module):
    """Turns one number for each column into the features that a model sees.

    Numbers and dates come first, and a missing one is the training rows' median. Columns with missing values
    in training have a feature that is 1 where the value is missing. Then come sine and cosine of a date's
    place in the year, the week and the day, and for each category a feature that is 1 where it is. All of
    them are 0 for a category that training never saw.

    Args:
        columns: the rules, in the order of the inputs.

    Attributes:
        scaled: number of features that can be of any size, which come first; the others are from -1 to 1.
    """

    numbers: Tensor
    fill: Tensor
    flagged: Tensor
    dates: Tensor
    periods: Tensor
    categories: Tensor
    codes: Tensor

    def __init__(self, columns: Sequence[Column]) -> None:
        super().__init__()
        numbers = [i for i, column in enumerate(columns) if column.kind != "category"]
        words = [
            (i, code)
            for i, column in enumerate(columns)
            if column.kind == "category"
            for code in range(len(column.words) + column.flagged)
        ]
        self.scaled = len(numbers)

        def constant(name: str, values: list[int] | list[float], dtype: torch.dtype) -> None:
            self.register_buffer(name, torch.tensor(values, dtype=dtype), persistent=False)

        constant("numbers", numbers, torch.int64)
        constant("fill", [columns[i].fill for i in numbers], torch.float32)
        constant("flagged", [k for k, i in enumerate(numbers) if columns[i].flagged], torch.int64)
        constant("dates", [k for k, i in enumerate(numbers) if columns[i].kind == "date"], torch.int64)
        constant("periods", [YEAR, WEEK, DAY], torch.float32)
        constant("categories", [i for i, _ in words], torch.int64)
        constant("codes", [float(code) for _, code in words], torch.float32)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the features `(rows, features)` of inputs `(rows, columns)` as of `to_inputs`, float32."""
        numbers = inputs[:, self.numbers]
        missing = numbers.isnan()
        numbers = torch.where(missing, self.fill, numbers)
        parts = [numbers, missing[:, self.flagged].to(inputs.dtype)]
        if len(self.dates):
            turns = numbers[:, self.dates].unsqueeze(2) / self.periods
            angles = 2 * pi * (turns - turns.floor()).flatten(1)
            parts += [angles.sin(), angles.cos()]
        parts.append(inputs[:, self.categories].eq(self.codes).to(inputs.dtype))
        return torch.cat(parts, 1)
