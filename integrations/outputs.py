"""Texts that ended, to find again what others repeat."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from flyball.integrations.ngrams import BACK, LONGEST, NgramTable, Tokens, longest_match

Longs = NDArray[np.int64]

_GAP = -1  # between two texts; no token


class EndedTexts:
    """The latest texts that ended, one after the other in a ring.

    Args:
        bits: it holds 2 ** bits tokens.
        max_draft_len: tokens to propose.
    """

    def __init__(self, bits: int, max_draft_len: int) -> None:
        self._size = 2**bits
        # A proposal may be read beyond the end; 0 is no place of a text, but for none.
        self._ring = np.full(self._size + max_draft_len, _GAP, np.int32)
        self._table = NgramTable(1, bits)
        self._ahead = np.arange(max_draft_len)
        self._end = LONGEST

    def add(self, text: Tokens) -> None:
        """A text (t,) ended."""
        text = text[-(self._size // 2) :]
        if self._end + len(text) + 1 > self._size:
            self._ring[self._end :] = _GAP
            self._end = LONGEST
        start, self._end = self._end, self._end + len(text) + 1
        self._ring[start : self._end - 1] = text
        self._ring[self._end - 1] = _GAP
        places = np.arange(start + 1, self._end - 1)  # behind which something follows
        if len(places):
            windows = self._ring[places[:, None] - 1 - BACK]
            self._table.add(np.zeros_like(places), self._table.hashes(windows), places)

    def propose(self, windows: Tokens) -> tuple[Tokens, Longs, Longs]:
        """What followed the last tokens of texts.

        Args:
            windows: (r, longest) tokens, latest first.

        Returns:
            Tokens (r, max_draft_len), how many of them are proposed (r,), and strengths (r,).
        """
        found = self._table.find(np.zeros(len(windows), np.int64), self._table.hashes(windows))
        candidates = self._ring[np.maximum(found[..., None] - 1 - BACK, 0)]
        strength, place = longest_match(windows, candidates, found)
        tokens = self._ring[np.where(strength >= 0, place, 0)[:, None] + self._ahead]
        goes_on = (tokens != _GAP).cumprod(axis=1).sum(axis=1)
        count = np.where(strength >= 0, goes_on, 0)
        return tokens, count, np.maximum(strength, 0)
