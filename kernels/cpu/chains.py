"""Drafted chains on a CPU, and the distributions that they were drawn from."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from flyball.kernels.reference.draw import single

Longs = NDArray[np.int64]
Floats = NDArray[np.float64]


class Chains:
    """Drafts of all rows; a column that was not drawn has a point mass for its q.

    Args:
        draft: (rows, D, vocab) q of the first D columns; None where nothing was drawn.
        tokens: (rows, K); what stands beyond a row's length is never looked at.
        lengths: (rows,).
        certain: (rows,) bool, rows that were not drawn; None where only `draft` decides.

    Attributes:
        tokens: (rows, K), 0 beyond a row's length.
        lengths: (rows,).
        proposed: (rows, K) columns that count.
        drawn: (rows, K) columns that count and were drawn.
        draft: as given.
    """

    def __init__(
        self,
        draft: torch.Tensor | None,
        tokens: torch.Tensor,
        lengths: torch.Tensor,
        certain: torch.Tensor | None,
    ) -> None:
        self.lengths = lengths.numpy()
        columns = np.arange(tokens.shape[1])
        self.proposed = columns < self.lengths[:, None]
        self.tokens = np.where(self.proposed, tokens.numpy(), 0)
        self.drawn = self.proposed
        if draft is None or draft.shape[1] < len(columns):
            self.drawn = self.drawn & (columns < (0 if draft is None else draft.shape[1]))
        if certain is not None:
            self.drawn = self.drawn & ~certain.numpy()[:, None]
        self.draft = draft
        # numpy knows no bfloat16, and computes in half precision what torch does not.
        halves = draft is None or draft.element_size() < 4
        self._q: NDArray[Any] | None = None if draft is None or halves else draft.numpy()

    def q_drawn(self) -> Floats:
        """What q (rows, K) is at the tokens that count, 1 elsewhere."""
        found = np.ones(self.tokens.shape)
        row, column = self.drawn.nonzero()
        if self.draft is not None and len(row):
            index = row, column, self.tokens[row, column]
            if self._q is None:
                picked = self.draft[tuple(torch.from_numpy(i) for i in index)]
                found[row, column] = picked.float().numpy()
            else:
                found[row, column] = self._q[index]
        return found

    def q(self, row: int, column: int) -> NDArray[Any] | None:
        """A row's q (vocab,) at a column, to be read alone; None where it is a point mass."""
        if self.draft is None or not self.drawn[row, column]:
            return None
        if self._q is None:
            return single(self.draft[row, column]).numpy()
        found: NDArray[Any] = self._q[row, column]
        return found

    def residual(self, p: NDArray[Any], row: int, column: int) -> NDArray[Any]:
        """max(p - q, 0) (vocab,) of p (vocab,) and a row's q at a column."""
        q = self.q(row, column)
        if q is None:
            rest = p.copy()
            rest[self.tokens[row, column]] = 0.0  # p is no more than 1
            return rest
        rest = p - q
        result: NDArray[Any] = np.maximum(rest, 0.0, out=rest)
        return result

    def overlap(self, p: torch.Tensor, p_drawn: Floats, rows: Longs, columns: slice) -> Floats:
        """sum_x min(p, q) (n, c).

        Args:
            p: (n, at least c, vocab) the target's distributions in these columns.
            p_drawn: (n, c) of the tokens.
            rows: (n,).
            columns: c of them.
        """
        drawn = self.drawn[rows, columns]
        if self.draft is None or not drawn.any():
            return p_drawn
        q = self.draft[torch.from_numpy(rows), columns]
        found = torch.minimum(p[:, : q.shape[1]], single(q)).sum(dim=2).double().numpy()
        padded = np.pad(found, ((0, 0), (0, p_drawn.shape[1] - q.shape[1])))
        return np.where(drawn, padded, p_drawn)
