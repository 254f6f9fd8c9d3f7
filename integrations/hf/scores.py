"""Scores and logits of every generated token, as `return_dict_in_generate` gives them."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

Longs = NDArray[np.int64]


class TokenScores:
    """Collects one (rows, vocab) tensor for each generated token; zeros after a row's end."""

    def __init__(self) -> None:
        self._columns: list[torch.Tensor] = []

    def add(self, block: torch.Tensor, first: Longs, count: Longs) -> None:
        """Keep scores of new tokens.

        Args:
            block: (rows, width, vocab).
            first: (rows,) index of each row's first new token among its generated ones.
            count: (rows,) new tokens of each row.
        """
        while len(self._columns) < int((first + count).max(initial=0)):
            self._columns.append(torch.zeros_like(block[:, 0]))
        for column in range(block.shape[1]):
            for index in np.unique(first[count > column]).tolist():
                rows = torch.from_numpy(np.flatnonzero((count > column) & (first == index)))
                rows = rows.to(block.device)
                self._columns[index + column][rows] = block[rows, column]

    def result(self, length: int) -> tuple[torch.Tensor, ...]:
        """Scores of the first `length` generated tokens."""
        return tuple(self._columns[:length])
