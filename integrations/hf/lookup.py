"""Prompt lookup: what followed the text's last tokens the last time that they stood there."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from flyball.controller.governor import Offer
from flyball.integrations.hf.text import Moves

Longs = NDArray[np.int64]

NGRAMS = (1, 2, 3, 4, 6, 9)  # matched lengths, in tokens; the index is the offer's strength
_LONGEST = NGRAMS[-1]
_TABLE = 4096  # places of a row's table for each length of n-gram
_SHIFT = np.uint64(64 - 12)


class SettledTexts(Protocol):
    """Texts to look into, one row each."""

    @property
    def host(self) -> Longs:
        """(max_rows, capacity) tokens, settled ones."""

    @property
    def num_rows(self) -> int:
        """Rows in use, the first ones."""

    @property
    def num_tokens(self) -> Longs:
        """(rows,) columns that are settled, padding included."""

    @property
    def num_padding(self) -> Longs:
        """(rows,) columns of left padding."""


def _powers() -> NDArray[np.uint64]:
    """Weights (longest, lengths) of the tokens of an n-gram in its hash, latest token first."""
    base, powers = 0x9E3779B97F4A7C15, np.zeros((_LONGEST, len(NGRAMS)), np.uint64)
    for j in range(_LONGEST):
        powers[j, np.array(NGRAMS) > j] = pow(base, j + 1, 2**64)
    return powers


class PromptLookup:
    """Finds where each row's last tokens stood before, in its prompt or in what it has produced.

    For every row and length of n-gram a hash table holds the latest position behind each n-gram.
    The longest n-gram that is found again makes the proposal (prompt lookup decoding, Saxena
    2023, which takes the first place found by one length); if the text repeats itself with a
    period shorter than the proposal, the period goes on. Memory is fixed for each row: in a long
    text new n-grams overwrite old ones.

    Args:
        number: among the host's drafts.
        num_rows: most rows at a time.
        texts: of the batch.
        max_draft_len: tokens to propose.
    """

    def __init__(
        self, number: int, num_rows: int, texts: SettledTexts, max_draft_len: int
    ) -> None:
        self.number = number
        self._texts = texts
        self._ahead = np.arange(max_draft_len)
        self._powers = _powers()
        self._back = np.arange(_LONGEST)
        self._lengths = np.arange(len(NGRAMS))
        self._used = self._back < np.array(NGRAMS)[:, None]  # (lengths, longest)
        self._table = np.zeros((num_rows, len(NGRAMS), _TABLE), np.int32)
        self._indexed: Longs = np.zeros(0, np.int64)  # columns whose n-grams are in the table
        self.tokens: Longs = np.zeros((0, max_draft_len), np.int64)

    def add(self, rows: Longs) -> None:
        """New rows begin."""
        self._table[rows] = 0
        self._indexed = np.concatenate([self._indexed, self._texts.num_padding[rows]])

    def keep(self, moves: Moves) -> None:
        """Close up after rows have left."""
        self._table[moves.targets] = self._table[moves.sources]
        self._indexed = self._indexed[moves.order]

    def offer(self) -> Offer | None:
        """What it proposes for each row now, or None where it finds nothing for any of them.

        The tokens (rows, max_draft_len) are then in `tokens`.
        """
        texts = self._texts
        rows = np.arange(texts.num_rows)
        last = texts.num_tokens - 1
        width = int((last - self._indexed).max()) + 1
        columns = last[:, None] - np.arange(width)[::-1]  # those to index, and the last one
        windows = self._windows(rows[:, None, None], columns)
        hashes = (windows.astype(np.uint64) @ self._powers >> _SHIFT).astype(np.intp)
        new = columns[:, :-1] >= self._indexed[:, None]
        row, place = np.nonzero(new)
        self._table[row[:, None], self._lengths, hashes[row, place]] = (
            columns[row, place, None] + 1
        )
        self._indexed = last.copy()
        found: Longs = self._table[rows[:, None], self._lengths, hashes[:, -1]].astype(np.int64)
        candidates = self._windows(rows[:, None, None], found - 1)
        same = ((candidates == windows[:, -1:]) | ~self._used).all(axis=-1) & (found > 0)
        if not same.any():
            return None
        strength = len(NGRAMS) - 1 - same[:, ::-1].argmax(axis=1)
        any_found = same.any(axis=1)
        start = np.where(any_found, found[rows, strength], last)
        period = texts.num_tokens - start
        index = start[:, None] + self._ahead % period[:, None]
        self.tokens = texts.host[rows[:, None], index]
        draft_len = np.where(any_found, len(self._ahead), 0)
        return Offer(self.number, draft_len.astype(np.int32), strength.astype(np.int32))

    def _windows(self, rows: Longs, columns: Longs) -> Longs:
        """The tokens (rows, c, longest) up to each column, latest first."""
        windows: Longs = self._texts.host[rows, np.maximum(columns[..., None] - self._back, 0)]
        return windows
