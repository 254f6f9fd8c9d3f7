"""Tables of where the n-grams of texts stood last."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Longs = NDArray[np.int64]
Tokens = NDArray[np.int64] | NDArray[np.int32]

NGRAMS = (1, 2, 3, 4, 6, 9)  # matched lengths, in tokens; the index is an offer's strength
LONGEST = NGRAMS[-1]
BACK = np.arange(LONGEST)
_LENGTHS = np.arange(len(NGRAMS))
_USED = np.array(NGRAMS)[:, None] > BACK  # (lengths, longest)


def _powers() -> NDArray[np.uint64]:
    """Weights (longest, lengths) of the tokens of an n-gram in its hash, latest token first."""
    base, powers = 0x9E3779B97F4A7C15, np.zeros((LONGEST, len(NGRAMS)), np.uint64)
    for j in range(LONGEST):
        powers[j, np.array(NGRAMS) > j] = pow(base, j + 1, 2**64)
    return powers


_POWERS = _powers()


class NgramTable:
    """The latest place behind each n-gram, for rows of texts.

    Hashes that collide overwrite each other, and old places give way to new ones, so memory is
    fixed; what is found has to be compared with the text that stands there.

    Args:
        num_rows: of texts.
        bits: each row has 2 ** bits places for each length of n-gram.
    """

    def __init__(self, num_rows: int, bits: int) -> None:
        self._shift = np.uint64(64 - bits)
        self._table = np.zeros((num_rows, len(NGRAMS), 2**bits), np.int32)

    def forget(self, rows: Longs) -> None:
        """Other texts begin in these rows."""
        self._table[rows] = 0

    def move(self, sources: Longs, targets: Longs) -> None:
        """Texts move to other rows."""
        self._table[targets] = self._table[sources]

    def hashes(self, windows: Tokens) -> NDArray[np.intp]:
        """Hash (..., lengths) of the n-grams that end windows (..., longest), latest first."""
        found: NDArray[np.intp] = (windows.astype(np.uint64) @ _POWERS >> self._shift).astype(
            np.intp
        )
        return found

    def add(self, rows: Longs, hashes: NDArray[np.intp], places: Longs) -> None:
        """Note the places (t,) behind n-grams (t, lengths) of texts; later ones win."""
        self._table[rows[:, None], _LENGTHS, hashes] = places[:, None]

    def find(self, rows: Longs, hashes: NDArray[np.intp]) -> Longs:
        """Places (r, lengths) behind n-grams (r, lengths); 0 where there is none."""
        found: Longs = self._table[rows[:, None], _LENGTHS, hashes].astype(np.int64)
        return found


def longest_match(windows: Tokens, candidates: Tokens, found: Longs) -> tuple[Longs, Longs]:
    """The longest n-gram that is really found again.

    Args:
        windows: (r, longest) last tokens of texts, latest first.
        candidates: (r, lengths, longest) tokens before the places found, likewise.
        found: (r, lengths) places, 0 for none.

    Returns:
        Strength (r,), -1 where nothing is found again, and place (r,).
    """
    same = ((candidates == windows[:, None]) | ~_USED).all(axis=-1) & (found > 0)
    strength = len(NGRAMS) - 1 - same[:, ::-1].argmax(axis=1)
    place: Longs = found[np.arange(len(found)), strength]
    return np.where(same.any(axis=1), strength, -1), place
