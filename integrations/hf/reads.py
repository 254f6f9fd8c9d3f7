"""Tokens that a model has read, and what that took."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flyball.integrations.hf.flops import forward_flops

Longs = NDArray[np.int64]


@dataclass
class Reads:
    """Sums over forwards, padding left out.

    Attributes:
        num_tokens: tokens read.
        num_attended: tokens that they attended to, themselves included, summed.
    """

    num_tokens: int = 0
    num_attended: int = 0

    def add(self, width: Longs, context: Longs) -> None:
        """Rows have read `width` (rows,) tokens behind `context` (rows,) ones."""
        self.num_tokens += int(width.sum())
        self.num_attended += int((width * context + width * (width + 1) // 2).sum())

    def flops(self, model: Any) -> float:
        """What that took a model, by `forward_flops`."""
        if self.num_tokens == 0:
            return 0.0
        # One row that read as many tokens and attended to as many.
        context = self.num_attended / self.num_tokens - (self.num_tokens + 1) / 2
        return forward_flops(model, np.array(self.num_tokens), np.array(context))
