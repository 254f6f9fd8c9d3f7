"""Which row of a cache holds which candidate's text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Longs = NDArray[np.int64]
Floats = NDArray[np.float64]

_NOBODY = -1


@dataclass(eq=False)
class Row:
    """What a row of a cache holds, whose candidate may be gone.

    Attributes:
        candidate: its id; -1 where it is gone.
        tokens: its text when it was read last.
        num_read: of them, those in the cache, from the first on.
        first: column of the first value.
        values: (num_read,) the value at each column; NaN before the first.
        last_use: number of the call that used it last.
    """

    candidate: int = _NOBODY
    tokens: Longs = field(default_factory=lambda: np.zeros(0, np.int64))
    num_read: int = 0
    first: int = 0
    values: Floats = field(default_factory=lambda: np.zeros(0))
    last_use: int = 0

    @property
    def is_free(self) -> bool:
        """Whether no candidate needs it."""
        return self.candidate == _NOBODY

    def common(self, tokens: Longs) -> int:
        """How many tokens in the cache begin another text, too."""
        length = min(self.num_read, len(tokens))
        differs = self.tokens[:length] != tokens[:length]
        return int(differs.argmax()) if differs.any() else length

    def hold_prompt(self, prompt: Longs) -> None:
        """A prompt was read, without values."""
        self.tokens, self.num_read, self.first = prompt, len(prompt), len(prompt)
        self.values = np.full(len(prompt), np.nan)

    def copy_from(self, other: Row) -> None:
        """Hold what another row does."""
        self.tokens, self.num_read = other.tokens, other.num_read
        self.first, self.values = other.first, other.values

    def grow(self, tokens: Longs, first: int, end: int, num_unread: int) -> int:
        """Hold a text's first `end` columns, with values from column `first` on.

        Args:
            tokens: the text, which may differ from what the row held from some token on.
            first: at most as many columns as the text shares with that.
            end: columns to be read.
            num_unread: of `CandidateCache`.

        Returns:
            The column to read from.
        """
        common = self.common(tokens)
        if common == self.num_read < min(len(self.tokens), len(tokens)):
            # The last value was that of the token which followed, unread.
            common += int(self.tokens[common] == tokens[common])
        # A value is the same where all that it depends on is.
        start = min(self.num_read, common, max(common - num_unread, first))
        if self.first > first:
            start = first
        if start == first:  # values before it may be those of other tokens
            self.first = first
        self.tokens, self.num_read = tokens, end
        self.values = np.concatenate([self.values[:start], np.full(end - start, np.nan)])
        return start


class CandidateRows:
    """The rows of a cache, in its order.

    Args:
        max_rows: most of them.
    """

    def __init__(self, max_rows: int) -> None:
        self._max_rows = max_rows
        self._rows: list[Row] = []

    def __len__(self) -> int:
        """Rows that are or were used."""
        return len(self._rows)

    def place(self, row: Row) -> int:
        """Number of a row in the cache."""
        return self._rows.index(row)

    def find(self, candidates: Longs, call: int) -> dict[int, Row]:
        """Rows of those of candidates (m,) that have one, by id; they are in use by this call."""
        ids = set(candidates.tolist())
        found = {row.candidate: row for row in self._rows if row.candidate in ids}
        for row in found.values():
            row.last_use = call
        return found

    def begin(self, candidate: int, tokens: Longs, least: int, call: int) -> tuple[Row, Row]:
        """A row for a new candidate.

        Args:
            candidate: its id.
            tokens: its text.
            least: tokens that a row's text must share with it to be of use.
            call: number of this call; rows that it uses are not taken.

        Returns:
            The row, and the one whose cache it has to begin as a copy of; the same if none.
        """
        source = max(self._rows, key=lambda row: row.common(tokens), default=None)
        if source is not None and source.common(tokens) < max(1, least):
            source = None
        row = source if source is not None and source.is_free else self._free_row()
        row.candidate, row.last_use = candidate, call
        return row, source or row

    def forget(self, candidates: Longs) -> None:
        """Free the rows of candidates (m,); what they hold stays of use until they are taken."""
        gone = set(candidates.tolist())
        for row in self._rows:
            if row.candidate in gone:
                row.candidate = _NOBODY

    def bring_to_front(self, rows: Sequence[Row]) -> tuple[Longs, Longs]:
        """Order rows so that these come first; others move only to make place.

        Returns:
            (m,) old and (m,) new numbers of the rows that have to move, all at once.
        """
        before = self._rows
        chosen = set(map(id, rows))
        others = iter([row for row in before[: len(rows)] if id(row) not in chosen])
        behind = [next(others) if id(row) in chosen else row for row in before[len(rows) :]]
        self._rows = [*rows, *behind]
        places = {id(row): place for place, row in enumerate(before)}
        sources = np.array([places[id(row)] for row in self._rows])
        targets = np.flatnonzero(sources != np.arange(len(sources)))
        return sources[targets], targets

    def _free_row(self) -> Row:
        if len(self._rows) < self._max_rows and not any(row.is_free for row in self._rows):
            self._rows.append(Row())
            return self._rows[-1]
        return min(self._rows, key=lambda row: (not row.is_free, row.last_use))
