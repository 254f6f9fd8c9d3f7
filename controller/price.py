"""The price of a second: how many tokens it is worth, given what is believed and measured.

A decoding round is a renewal that emits N tokens in T seconds. The policy with the best long-run
rate `rate* = max E[N] / E[T]` is the one that maximises `E[N] - rate* x E[T]` in every round
(renewal-reward theorem; Dinkelbach 1967), hence `rate*` is the price of a second. Requests have a
fixed number of tokens left, so a token is worth the time it saves its own request: request i's
tokens weigh 1 / E[N_i], scaled here to a mean of 1. At batch size 1 the price is the request's
own rate.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Quote:
    """What the present requests' tokens and seconds are worth.

    Attributes:
        price: tokens per second.
        draft_len: length of the draft that attains it when all requests draft alike.
        weight: (n,) worth of a token of each request, mean 1.
    """

    price: float
    draft_len: int
    weight: Floats


def quote(survival: Floats, round_s: Floats) -> Quote:
    """Price of a second for requests that draft alike.

    Args:
        survival: (n, K) probability that the draft is accepted up to each position.
        round_s: (K + 1,) seconds of a round for draft lengths 0 to K.

    Returns:
        The best rate over draft lengths, total tokens of all requests per second.
    """
    tokens = np.ones((len(survival), len(round_s)))
    tokens[:, 1:] += survival.cumsum(axis=1)
    best = int((tokens.sum(axis=0) / round_s).argmax())
    weight = 1.0 / tokens[:, best]
    weight *= len(weight) / weight.sum()
    rate = weight @ tokens / round_s
    best = int(rate.argmax())
    return Quote(float(rate[best]), best, weight)


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
