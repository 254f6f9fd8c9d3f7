"""When rounds bring more, or fewer, tokens than they used to."""

from __future__ import annotations

import math

_SLACK = 0.35  # of the mean; what a round differs by without a reason
_ALARM = 1.5  # of the mean
_KEEP = math.exp(-1.0 / 50.0)  # of the mean, from round to round


class Surprise:
    """Two-sided cumulative sum test (Page 1954) on the tokens of a round.

    Deviations from a moving mean, relative to it, less a slack, are summed up as long as the sum
    is positive; an alarm starts the sums anew. Tokens of a round at batch size 1 are about
    geometric, and an alarm without a reason comes every 30 rounds or so: it costs no more than an
    early look at what was gathered. Plain floats, because it runs every round.
    """

    def __init__(self) -> None:
        self._mean = 0.0
        self._above = self._below = 0.0

    def update(self, num_tokens: float) -> bool:
        """Whether the round's tokens, with those before it, are a surprise."""
        if self._mean == 0.0:
            self._mean = num_tokens
        deviation = min(num_tokens / self._mean, 2.0) - 1.0  # one lucky round is no change
        self._mean = _KEEP * self._mean + (1.0 - _KEEP) * num_tokens
        self._above = max(0.0, self._above + deviation - _SLACK)
        self._below = max(0.0, self._below - deviation - _SLACK)
        if max(self._above, self._below) < _ALARM:
            return False
        self._above = self._below = 0.0
        return True

    @property
    def healthy(self) -> bool:
        """Whether the sums are finite."""
        return math.isfinite(self._mean + self._above + self._below)
