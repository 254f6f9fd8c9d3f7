"""What has to be read of candidates' texts, and in which rows of a cache."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flyball.integrations.hf.candidate_rows import CandidateRows
from flyball.integrations.hf.scorers import Partial

Longs = NDArray[np.int64]


@dataclass(frozen=True)
class Read:
    """A text that one or more candidates have.

    Attributes:
        numbers: of the candidates among the partial texts.
        row: where it is cached.
        first: column of the first value.
        start: column of the first token that is read.
        end: columns that stay in the cache.
        block: tokens to read, from `start` on; a tail that does not stay included.
        following: as many tokens, each that behind the block's; 0 where there is none.
    """

    numbers: Longs
    row: int
    first: int
    start: int
    end: int
    block: Longs
    following: Longs


def find_source(
    rows: CandidateRows, candidates: Sequence[int], tokens: Longs, least: int
) -> tuple[int, bool]:
    """The row in which a text of some candidates begins, -1 for none; whether it is their own.

    Their own row will do if it holds the first `least` tokens, else it is that which holds most.
    """
    for row in {rows.row_of(candidate) for candidate in candidates} - {None}:
        if row is not None and rows.held(tokens, row) >= least:
            return row, True
    return rows.nearest(tokens), False


class ReadPlan:
    """Finds a row for each text of a call.

    Candidates with the same text share a row. A row is read on where nobody else needs what comes
    behind; else the text goes on in a row of its own, which begins as a copy. All copies are made
    at once, before anything is read, so who is placed sees rows as they were before the call.

    Args:
        rows: of the cache.
        partial: texts.
        num_unread: last tokens of each that are not read.
        tail: to read behind each, without keeping it.
    """

    def __init__(
        self, rows: CandidateRows, partial: Partial, num_unread: int, tail: Longs
    ) -> None:
        self._rows = rows
        self._partial = partial
        self._num_unread = num_unread
        self._tail = tail
        self._copies: list[tuple[int, int]] = []
        self._grown: set[int] = set()  # rows whose text will be another one

    def place(self, groups: Sequence[Longs]) -> tuple[list[Read], Longs]:
        """Rows for texts that no two groups of candidates share; whose prompts are in the cache.

        Returns:
            What to read of each, and (2, m) the rows to copy, and over which.
        """
        reads = [self._place(numbers) for numbers in groups]
        copies = np.array(self._copies, np.int64).reshape(-1, 2).T
        self._rows.copy(*copies)
        for read in reads:
            if len(read.block):
                tokens = self._partial.tokens[read.numbers[0]]
                self._rows.hold(read.row, tokens, read.first, read.start, read.end)
        return reads, copies

    def _place(self, numbers: Longs) -> Read:
        rows, partial = self._rows, self._partial
        tokens, first = partial.tokens[numbers[0]], int(partial.prompt_len[numbers[0]]) - 1
        candidates, end = partial.candidate[numbers].tolist(), len(tokens) - self._num_unread
        source, is_own = find_source(rows, candidates, tokens, first)
        start = 0 if source < 0 else min(rows.start(source, tokens, first, self._num_unread), end)
        stop = len(tokens) + len(self._tail) if len(self._tail) else end
        for candidate in candidates:
            rows.leave(candidate)
        row = source
        if not self._stays(source, is_own, tokens, start == stop):
            row = rows.take()
            self._grown.add(row)
            if source not in (-1, row):
                self._copies.append((source, row))
        if start < stop:
            self._grown.add(row)
        for candidate in candidates:
            rows.use(candidate, row, len(tokens))
        text = np.concatenate([tokens, self._tail, [0]]).astype(np.int64)
        block, following = text[start:stop], text[start + 1 : stop + 1]
        return Read(numbers, row, first, start, end, block, following)

    def _stays(self, source: int, is_own: bool, tokens: Longs, is_read: bool) -> bool:
        """Whether a text may be read on in the row that it begins in."""
        if source < 0 or source in self._grown:
            return False
        rows, common = self._rows, self._rows.common(tokens, source)
        if is_read:
            return True
        # What a row of nobody's holds beyond the text may be of use to others.
        return not rows.is_needed(source, common) and (is_own or rows.num_read(source) <= common)
