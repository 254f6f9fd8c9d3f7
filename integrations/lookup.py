"""Prompt lookup: what followed the text's last tokens the last time that they stood there."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from flyball.controller.governor import Offer
from flyball.integrations.ngrams import BACK, NgramTable, Tokens, longest_match

Longs = NDArray[np.int64]

_BITS = 12  # of a row's table for each length of n-gram


class SettledTexts(Protocol):
    """Texts to look into, one row each."""

    @property
    def host(self) -> Tokens:
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

    Attributes:
        tokens: (rows, max_draft_len) of the latest offer.
    """

    def __init__(
        self, number: int, num_rows: int, texts: SettledTexts, max_draft_len: int
    ) -> None:
        self.number = number
        self._texts = texts
        self._ahead = np.arange(max_draft_len)
        self._table = NgramTable(num_rows, _BITS)
        self._indexed = np.zeros(num_rows, np.int64)  # columns whose n-grams are in the table
        self.tokens: Tokens = np.zeros((0, max_draft_len), np.int64)

    def add(self, rows: Longs) -> None:
        """Texts begin in these rows (r,)."""
        self._table.forget(rows)
        self._indexed[rows] = self._texts.num_padding[rows]

    def move(self, sources: Longs, targets: Longs) -> None:
        """Texts move to other rows."""
        self._table.move(sources, targets)
        self._indexed[targets] = self._indexed[sources]

    def offer(self) -> Offer | None:
        """What it proposes for each row now, or None where it finds nothing for any of them.

        The tokens (rows, max_draft_len) are then in `tokens`.
        """
        texts = self._texts
        rows, indexed = np.arange(texts.num_rows), self._indexed[: texts.num_rows]
        last = texts.num_tokens - 1
        new = np.maximum(last - indexed, 0)
        row = rows.repeat(new)
        column = np.arange(len(row)) - (new.cumsum() - new - indexed)[row]
        self._table.add(row, self._table.hashes(self._windows(row, column)), column + 1)
        indexed[:] = last
        windows = self._windows(rows, last)
        found = self._table.find(rows, self._table.hashes(windows))
        candidates = self._windows(rows[:, None], found - 1)
        strength, start = longest_match(windows, candidates, found)
        any_found = strength >= 0
        if not any_found.any():
            return None
        start = np.where(any_found, start, last)
        period = texts.num_tokens - start
        index = start[:, None] + self._ahead % period[:, None]
        self.tokens = texts.host[rows[:, None], index]
        draft_len = np.where(any_found, len(self._ahead), 0)
        strength = np.maximum(strength, 0)
        return Offer(self.number, draft_len.astype(np.int32), strength.astype(np.int32))

    def _windows(self, rows: Longs, columns: Longs) -> Tokens:
        """The tokens (..., longest) up to columns (...) of rows, latest first."""
        places = np.maximum(columns[..., None] - BACK, 0)
        windows: Tokens = self._texts.host[rows[..., None], places]
        return windows
