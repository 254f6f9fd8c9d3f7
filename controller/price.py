"""The price of a second: how many tokens it is worth, given what is believed and measured.

A decoding round is a renewal that emits N tokens in T seconds. The policy with the best long-run
rate `rate* = max E[N] / E[T]` is the one that maximises `E[N] - rate* x E[T]` in every round
(renewal-reward theorem; Dinkelbach 1967), hence `rate*` is the price of a second. Requests have a
fixed number of tokens left, so a token is worth the time it saves its own request: request i's
tokens weigh 1 / E[N_i], scaled here to a mean of 1. At batch size 1 the price is the request's
own rate.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(slots=True)
class Quote:
    """What the present requests' tokens and seconds are worth.

    Attributes:
        price: tokens per second.
        way: the way of drafting that attains it.
        draft_len: length of the draft that attains it when all requests draft alike.
        weight: (n,) worth of a token of each request, mean 1.
        rates: (ways, K + 1) weighted tokens per second by way and length.
    """

    price: float
    way: int
    draft_len: int
    weight: Floats
    rates: Floats


def quote(tokens: Floats, round_s: Floats) -> Quote:
    """Price of a second for requests that draft alike.

    Args:
        tokens: (ways, n, K + 1) tokens that a round is expected to bring, by way of
            drafting, request and draft length 0 to K: the cumulative sum of survival.
        round_s: (ways, K + 1) seconds of a round by way and length.

    Returns:
        The best rate over ways and lengths, total tokens of all requests per second.
    """
    way, best = divmod(int((tokens.sum(axis=1) / round_s).argmax()), round_s.shape[1])
    weight = 1.0 / tokens[way, :, best]
    weight *= len(weight) / weight.sum()
    rates: Floats = weight @ tokens / round_s
    way, best = divmod(int(rates.argmax()), round_s.shape[1])
    return Quote(float(rates[way, best]), way, best, weight, rates)


class PriceCorrection:
    """How far the realised rate lies above the quoted one.

    A quote assumes that all requests draft to one length; stopping at unsure tokens does better.
    The correction is the ratio of discounted sums of tokens realised and tokens that the quoted
    price would have brought in the same seconds, kept within [1, 1.5].
    """

    def __init__(self, memory: float = 200.0) -> None:
        self._keep = float(np.exp(-1.0 / memory))
        self._realised = 10.0
        self._quoted = 10.0

    def update(self, num_tokens: float, quoted_tokens: float) -> None:
        """Learn from one round: weighted tokens it brought, and price x its seconds."""
        self._realised = self._keep * self._realised + num_tokens
        self._quoted = self._keep * self._quoted + quoted_tokens

    @property
    def factor(self) -> float:
        """Realised rate over quoted rate."""
        return min(1.5, max(1.0, self._realised / self._quoted))

    @property
    def healthy(self) -> bool:
        """Whether both sums are finite."""
        return math.isfinite(self._realised + self._quoted)
