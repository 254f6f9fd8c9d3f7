"""Scores and logits of every generated token, as `return_dict_in_generate` gives them."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from flyball.integrations.hf.device import upload

Longs = NDArray[np.int64]


class TokenScores:
    """Collects one (requests, vocab) tensor for each generated token; zeros after a text's end.

    Args:
        num_requests: texts of the call.
    """

    def __init__(self, num_requests: int) -> None:
        self._num_requests = num_requests
        self._columns: list[torch.Tensor] = []

    def add(self, block: torch.Tensor, request: Longs, first: Longs, count: Longs) -> None:
        """Keep scores of new tokens.

        Args:
            block: (rows, width, vocab).
            request: (rows,) text of each row.
            first: (rows,) index of each row's first new token among its generated ones.
            count: (rows,) new tokens of each row.
        """
        while len(self._columns) < int((first + count).max(initial=0)):
            self._columns.append(block.new_zeros(self._num_requests, block.shape[2]))
        for column in range(block.shape[1]):
            for index in np.unique(first[count > column]).tolist():
                rows = np.flatnonzero((count > column) & (first == index))
                texts, rows_ = (upload(x, block.device) for x in (request[rows], rows))
                self._columns[index + column][texts] = block[rows_, column]

    def result(self, length: int) -> tuple[torch.Tensor, ...]:
        """Copies of the scores of the first `length` generated tokens."""
        return tuple(column.clone() for column in self._columns[:length])
