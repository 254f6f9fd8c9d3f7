"""Philox of all counters at once, in Python's long integers.

A word is the lower half of a lane of 64 bits, and the lanes of all counters lie side by side in
one integer. The product of two words fits a lane, so that one multiplication is that of every
counter: ten operations a round, where a call of numpy, or a counter alone, costs what they do.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from flyball.kernels.philox import KEY_STEPS, MULTIPLIERS, NUM_ROUNDS, WORD

Floats = NDArray[np.float64]

_LANE = np.dtype("<u8")
_HIGHEST = 2**26 - 1  # of the bits that a uniform takes of a word


def uniforms(
    seeds: NDArray[np.int64], places: NDArray[np.int64], candidates: NDArray[np.int64]
) -> tuple[Floats, Floats]:
    """The same as `flyball.kernels.philox.uniforms`: to test and to draw, in (0, 1)."""
    shape = np.broadcast(seeds, places, candidates).shape
    filled = np.empty((3, *shape), _LANE)
    filled[0], filled[1], filled[2] = candidates, places, seeds.view(np.uint64)
    count = filled[0].size
    c0, c1, key = (int.from_bytes(lanes.tobytes(), "little") for lanes in filled)
    ones = int.from_bytes(bytes([1, *[0] * (_LANE.itemsize - 1)]) * count, "little")
    words, step0, step1 = ones * WORD, ones * KEY_STEPS[0], ones * KEY_STEPS[1]
    c2, c3, k0, k1 = 0, ones, key & words, key >> 32 & words
    for _ in range(NUM_ROUNDS):
        first, second = c0 * MULTIPLIERS[0], c2 * MULTIPLIERS[1]
        # The upper halves of c1, c3 and the keys are left as they are: what is a factor has none.
        c0, c2 = (second >> 32 ^ c1 ^ k0) & words, (first >> 32 ^ c3 ^ k1) & words
        c1, c3 = second, first
        k0, k1 = k0 + step0, k1 + step1
    bits = ones * _HIGHEST
    test, draw = (
        ((upper >> 6 & bits) << 26 | lower >> 6 & bits).to_bytes(count * _LANE.itemsize, "little")
        for upper, lower in ((c0, c1), (c2, c3))
    )
    found = (np.frombuffer(test + draw, _LANE).astype(np.float64) + 0.5) * 2.0**-52
    to_test, to_draw = found.reshape(2, *shape)
    return to_test, to_draw
