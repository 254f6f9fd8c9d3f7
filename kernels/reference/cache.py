"""Compaction of a cache in plain torch; see `flyball.kernels.cache`."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def compact(buffers: Sequence[torch.Tensor], source: torch.Tensor, start: torch.Tensor) -> None:
    """By way of a copy of all that moves."""
    row, number = (source >= 0).nonzero(as_tuple=True)
    taken, put = source[row, number], start[row] + number
    for buffer in buffers:
        buffer[row, :, put] = buffer[row, :, taken]
