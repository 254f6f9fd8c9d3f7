"""The columns in which one target forward reads a token tree."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

Longs = NDArray[np.int64]
Counts = TypeVar("Counts", Longs, torch.Tensor)


@dataclass(frozen=True)
class TreeBlock:
    """A spine of drafted tokens, and at each depth the leaves that stand beside the spine's token.

    Columns are [last settled token, spine 1..K, siblings of depth 1, siblings of depth 2, ...].
    The spine comes first so that a chain is the tree of width 1, and so that whatever is accepted
    at most one column per row stands elsewhere than at its depth: an accepted sibling's.

    Attributes:
        num_spine: K, tokens of the spine.
        width: candidates at each depth, the spine's token among them, at least 1.
    """

    num_spine: int
    width: int

    @cached_property
    def depth(self) -> Longs:
        """Tokens (T,) between the last settled one and each column's, T = 1 + K * width."""
        spine = np.arange(self.num_spine + 1)
        return np.concatenate([spine, np.repeat(spine[1:], self.width - 1)])

    @cached_property
    def visible(self) -> NDArray[np.bool_]:
        """Columns that each column attends to (T, T): the spine above it, and itself."""
        columns = np.arange(len(self.depth))
        visible: NDArray[np.bool_] = columns < self.depth[:, None]
        return visible | np.eye(len(columns), dtype=np.bool_)

    def tokens(self, settled: torch.Tensor, candidates: torch.Tensor) -> torch.Tensor:
        """Token ids (rows, T) to feed.

        Args:
            settled: (rows,) the last settled token.
            candidates: (rows, K, width) the spine's token, then its siblings; a missing one (-1)
                is fed as some other token, which nothing attends to.
        """
        spine, siblings = candidates[..., 0], candidates[..., 1:].flatten(1)
        return torch.cat([settled[:, None], spine, siblings], dim=1).clamp(min=0)

    def column(self, depth: Counts, choice: Counts) -> Counts:
        """Where candidate `choice` (rows,) of `depth` (rows,), 0 to K, stands (rows,)."""
        sibling = self.num_spine + (depth - 1) * (self.width - 1) + choice
        beside = choice > 0
        return depth + beside * (sibling - depth)


@lru_cache(maxsize=256)
def tree_block(num_spine: int, width: int) -> TreeBlock:
    """The block of a shape, made once."""
    return TreeBlock(num_spine, width)
