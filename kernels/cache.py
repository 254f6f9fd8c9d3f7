"""Keys and values of a cache, moved together where rejected tokens left holes."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from flyball.kernels.dispatch import implementation


def compact(buffers: Sequence[torch.Tensor], source: torch.Tensor, start: torch.Tensor) -> None:
    """Let columns start, start + 1, ... of each row be what stands in columns `source`, in place.

    With ascending sources each column is read before it is written over. Columns that a row keeps
    where they are need not be named: `start` is the first that moves.

    Args:
        buffers: keys and values of all layers, (rows, heads, columns, head size) each, of one
            device; adjacent within a head's state.
        source: (rows, n) int64, strictly ascending in each row and at least start + i at i; -1
            from the first on that is not there.
        start: (rows,) int64.
    """
    if len(buffers) > 0:
        implementation("cache", buffers[0]).compact(buffers, source, start)
