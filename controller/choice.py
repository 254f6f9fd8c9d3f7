"""Which draft each request uses.

At most one draft that runs token by token takes part in a round; offers, which cost nothing, may
serve any request. A way of drafting is one stepping draft, or none, next to the offers: for each
length every request uses what promises most tokens, and the way with the best rate wins.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int32]
Bools = NDArray[np.bool_]


@dataclass(slots=True)
class Choice:
    """Who drafts for whom.

    Attributes:
        draft: (n,) index of each request's draft.
        limit: (n,) longest draft that it can give.
        offered: (n,) whether it is an offer.
        survival: (n, K + 1) probability that it is accepted up to each length.
    """

    draft: Ints
    limit: Ints
    offered: Bools
    survival: Floats


@dataclass(slots=True)
class Ways:
    """Ways of drafting without offers; K is the largest draft length.

    Attributes:
        drafts: (ways,) index of the stepping draft of each way; the last way has none, and any
            index.
        survival: (ways, n, K + 1) probability that it is accepted up to each length.
        tokens: (ways, n, K + 1) tokens it is expected to bring.
        limit: (ways, n) longest draft that it can give.
    """

    drafts: Ints
    survival: Floats
    tokens: Floats
    limit: Ints

    def within(self, room: Ints) -> Ways:
        """These, where the stepping drafts can give no more than room (ways - 1, n) tokens."""
        limit = self.limit.copy()
        np.minimum(limit[:-1], room, out=limit[:-1])
        survival = self.survival * (np.arange(self.survival.shape[2]) <= limit[..., None])
        return Ways(self.drafts, survival, survival.cumsum(axis=2), limit)

    def choose(self, way: int, draft_len: int) -> Choice:
        """One draft for all requests, whatever the length."""
        num_requests = self.survival.shape[1]
        return Choice(
            np.full(num_requests, self.drafts[way], np.int32),
            self.limit[way],
            np.zeros(num_requests, np.bool_),
            self.survival[way],
        )


class WaysWithOffers:
    """Ways of drafting where each request may use an offer instead of the stepping draft.

    Args:
        ways: without the offers.
        drafts: (o,) index of the draft of each offer.
        limits: (o,) of (n,) tokens on offer.
        survival: (o,) of (n, K + 1), 0 beyond the offer.
    """

    def __init__(
        self, ways: Ways, drafts: list[int], limits: Sequence[Ints], survival: list[Floats]
    ) -> None:
        self._ways = ways
        self._drafts = np.array(drafts, np.int32)
        self._limits, self._survival = limits, survival
        self._tokens = [own.cumsum(axis=1) for own in survival]
        most = self._tokens[0] if len(survival) == 1 else np.maximum.reduce(self._tokens)
        self.tokens: Floats = np.maximum(ways.tokens, most)

    def choose(self, way: int, draft_len: int) -> Choice:
        """The draft of each request that promises most tokens at a length."""
        choice = self._ways.choose(way, draft_len)
        draft, limit, survival = choice.draft, choice.limit, choice.survival
        most = self._ways.tokens[way, :, draft_len]
        offered = np.zeros(len(draft), np.bool_)
        for index, tokens in enumerate(self._tokens):
            better = tokens[:, draft_len] > most
            most = np.maximum(most, tokens[:, draft_len])
            draft = np.where(better, self._drafts[index], draft)
            limit = np.where(better, self._limits[index], limit)
            survival = np.where(better[:, None], self._survival[index], survival)
            offered |= better
        return Choice(draft, limit, offered, survival)
