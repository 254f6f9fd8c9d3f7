"""Philox of a few counters in numpy, whose calls cost a third of torch's on arrays that small."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from flyball.kernels.philox import KEY_STEPS, MULTIPLIERS, NUM_ROUNDS, WORD

Floats = NDArray[np.float64]

_FEW = 6  # counters
_ROUND_KEYS = np.outer(np.arange(NUM_ROUNDS), KEY_STEPS[::-1]).astype(np.uint64)


def uniforms(
    seeds: NDArray[np.int64], places: NDArray[np.int64], candidates: NDArray[np.int64]
) -> tuple[Floats, Floats]:
    """The same as `flyball.kernels.philox.uniforms`: to test and to draw, in (0, 1).

    Arrays are filled up front since broadcasting costs more, and the few counters of a request
    alone are counted in Python: 4 microseconds each, where the arrays take 40.
    """
    counters = np.broadcast(seeds, places, candidates)
    shape = counters.shape
    if counters.size <= _FEW:
        alone = np.array([_words(*counter) for counter in counters]).reshape(*shape, 2)
        return alone[..., 0], alone[..., 1]
    # Words 0 and 2, words 3 and 1, the key's upper and lower half, and constants.
    even, odd, key, factor, word, half = np.empty((6, 2, *shape), np.uint64)
    even[0], even[1], odd[0], odd[1] = candidates, 0, 1, places
    own = seeds.view(np.uint64)
    key[0], key[1] = own >> np.uint64(32), own & np.uint64(WORD)
    factor[0], factor[1] = MULTIPLIERS
    word[:], half[:] = WORD, 32
    keys = (key + _ROUND_KEYS.reshape(NUM_ROUNDS, 2, *[1] * len(shape))) & word
    for key in keys:
        product = even * factor
        even = (product >> half ^ odd ^ key)[::-1]
        odd = product & word
    upper, lower = even >> np.uint64(6), odd[::-1] >> np.uint64(6)
    found: Floats = ((upper << np.uint64(26)) + lower + 0.5) * 2.0**-52
    return found[0], found[1]


def _words(seed: int, place: int, candidate: int) -> tuple[float, float]:
    """Both uniforms of one counter."""
    k0, k1 = int(seed) & WORD, (int(seed) >> 32) & WORD
    c0, c1, c2, c3 = int(candidate), int(place), 0, 1
    for _ in range(NUM_ROUNDS):
        first, second = c0 * MULTIPLIERS[0], c2 * MULTIPLIERS[1]
        c0, c2 = (second >> 32) ^ c1 ^ k0, (first >> 32) ^ c3 ^ k1
        c1, c3 = second & WORD, first & WORD
        k0, k1 = (k0 + KEY_STEPS[0]) & WORD, (k1 + KEY_STEPS[1]) & WORD
    test, draw = ((c0 >> 6) << 26) + (c1 >> 6), ((c2 >> 6) << 26) + (c3 >> 6)
    return (test + 0.5) * 2.0**-52, (draw + 0.5) * 2.0**-52
