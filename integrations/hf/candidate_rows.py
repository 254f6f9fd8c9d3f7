"""Which rows of a cache hold which texts, and which candidates need them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Longs = NDArray[np.int64]
Floats = NDArray[np.float64]

_NOTHING = -1  # no token


class CandidateRows:
    """What a cache's rows hold; candidates whose texts are alike so far share one.

    What a row holds stays of use after its candidates are gone, until it is taken.

    Args:
        max_rows: most of them.

    Attributes:
        values: (rows, capacity) the value at each column.
    """

    def __init__(self, max_rows: int) -> None:
        self.values: Floats = np.zeros((0, 0))
        self._max_rows = max_rows
        self._call = 0
        self._count = 0
        self._tokens: Longs = np.zeros((0, 0), np.int64)  # texts when they were read last
        self._num_read: Longs = np.zeros(0, np.int64)  # tokens in the cache
        self._first: Longs = np.zeros(0, np.int64)  # column of the first value
        self._last_use: Longs = np.zeros(0, np.int64)  # a time, see `_now`
        self._needs: list[dict[int, int]] = []  # tokens of each row's text, by candidate
        self._row_of: dict[int, int] = {}

    def __len__(self) -> int:
        """Rows that are or were used."""
        return self._count

    @property
    def _now(self) -> int:
        """Time of this call: of rows that texts begin in, and one more of those they stay in."""
        return 2 * self._call

    def begin_call(self) -> None:
        """What is used from now on is used together."""
        self._call += 1

    def row_of(self, candidate: int) -> int | None:
        """Where a candidate's text was read."""
        return self._row_of.get(candidate)

    def num_read(self, row: int) -> int:
        """Tokens of a row's text that are in the cache, from the first on."""
        return int(self._num_read[row])

    def common(self, tokens: Longs, row: int) -> int:
        """With how many tokens a row's text begins like another one, unread ones included."""
        return int(self._common(tokens, slice(row, row + 1))[0])

    def held(self, tokens: Longs, row: int) -> int:
        """How many tokens of a text's beginning a row holds."""
        return min(self.common(tokens, row), self.num_read(row))

    def nearest(self, tokens: Longs) -> int:
        """The row that holds most of a text's beginning; -1 for none."""
        some = slice(self._count)
        held = np.minimum(self._common(tokens, some), self._num_read[some])
        return int(held.argmax()) if held.any() else -1

    def start(self, row: int, tokens: Longs, first: int, num_unread: int) -> int:
        """The column from which a text is to be read, for values from column `first` on.

        Args:
            row: that holds the text's beginning.
            tokens: the text.
            first: at most as many columns as the row holds of it.
            num_unread: of `CandidateCache`.
        """
        if self._first[row] > first:
            return first
        common = self.common(tokens, row)
        # A value is the same where all that it depends on is.
        return min(self.num_read(row), common, max(common - num_unread, first))

    def is_needed(self, row: int, num_tokens: int) -> bool:
        """Whether a candidate needs more than the first `num_tokens` of a row's text."""
        return any(need > num_tokens for need in self._needs[row].values())

    def spare(self, row: int) -> None:
        """A row is not to be taken in this call as long as there are others."""
        self._last_use[row] = max(self._last_use[row], self._now)

    def take(self) -> int:
        """A row that nobody needs, else a new one, else the one that was used least recently."""
        last_use = self._last_use[: self._count]
        needed = np.array([len(needs) > 0 for needs in self._needs[: self._count]], np.int64)
        order = last_use + np.where(last_use >= self._now, 2, needed) * (self._now + 2)
        if self._count < self._max_rows and not (order < self._now).any():
            self._reserve(self._count + 1, 0)
            row, self._count = self._count, self._count + 1
        else:
            row = int(order.argmin())
        for candidate in self._needs[row]:
            del self._row_of[candidate]
        self._needs[row] = {}
        self._last_use[row] = self._now
        return row

    def use(self, candidate: int, row: int, num_tokens: int) -> None:
        """A candidate needs the first tokens of a row's text, and no other row any more."""
        self.leave(candidate)
        self._row_of[candidate] = row
        self._needs[row][candidate] = num_tokens
        self._last_use[row] = self._now + 1

    def leave(self, candidate: int) -> None:
        """A candidate needs no row any more."""
        row = self._row_of.pop(candidate, None)
        if row is not None:
            del self._needs[row][candidate]

    def hold(self, row: int, tokens: Longs, first: int, start: int, end: int) -> None:
        """A text's columns from `start` to `end` are read, with values from `first` on."""
        self._reserve(self._count, len(tokens))
        self._tokens[row, : len(tokens)] = tokens
        self._tokens[row, len(tokens) :] = _NOTHING
        self._num_read[row] = end
        if start <= first:
            self._first[row] = first

    def copy(self, sources: Longs, targets: Longs) -> None:
        """Let rows (m,) hold what others do, all at once."""
        for array in (self._tokens, self.values, self._num_read, self._first):
            array[targets] = array[sources]

    def _common(self, tokens: Longs, rows: slice) -> Longs:
        width = min(len(tokens), self._tokens.shape[1])
        alike = np.ones((self._tokens[rows].shape[0], width + 1), np.bool_)
        alike[:, :width] = self._tokens[rows, :width] == tokens[:width]
        alike[:, width] = False
        common: Longs = alike.argmin(axis=1)
        return common

    def _reserve(self, num_rows: int, num_columns: int) -> None:
        rows, columns = self._tokens.shape
        if num_rows <= rows and num_columns <= columns:
            return
        shape = (
            rows if num_rows <= rows else min(2 * num_rows, self._max_rows),
            columns if num_columns <= columns else 2 * num_columns,
        )
        more = ((0, shape[0] - rows), (0, shape[1] - columns))
        self._tokens = np.pad(self._tokens, more, constant_values=_NOTHING)
        self.values = np.pad(self.values, more, constant_values=np.nan)
        self._num_read, self._first, self._last_use = (
            np.pad(array, more[0]) for array in (self._num_read, self._first, self._last_use)
        )
        self._needs += [{} for _ in range(more[0][1])]
