"""Seconds per token as readers see them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from flyball.controller.latency_counts import LatencyCounts

Ints = NDArray[np.integer]

STRETCH = 16  # tokens


class StreamLatencies:
    """Seconds per token over 16 tokens in a row of each request.

    Of single tokens, a step that drafts makes one slow and the others come for nothing, so that
    drafting would break every promise. Where a request ends before, the next one in its slot goes
    on with its stretch.

    Attributes:
        counts: of tokens, by what each took.
    """

    def __init__(self) -> None:
        self.counts = LatencyCounts()
        self._tokens = np.zeros(0, np.int64)  # by slot, of the stretch under way
        self._seconds = np.zeros(0)

    def add(self, slots: Ints, num_tokens: Ints, step_s: float) -> None:
        """A step settled so many tokens (n,) of the requests in slots (n,), each once."""
        if not len(slots):
            return
        missing = int(slots.max()) + 1 - len(self._tokens)
        if missing > 0:
            self._tokens = np.pad(self._tokens, (0, missing))
            self._seconds = np.pad(self._seconds, (0, missing))
        self._tokens[slots] += num_tokens
        self._seconds[slots] += step_s
        ended = slots[self._tokens[slots] >= STRETCH]
        if len(ended):
            tokens = self._tokens[ended].astype(np.float64)
            self.counts.add(self._seconds[ended] / tokens, tokens)
            self._tokens[ended], self._seconds[ended] = 0, 0.0
