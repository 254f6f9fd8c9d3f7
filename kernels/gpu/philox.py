"""Philox4x32-10 and what is made of its words; the very words of `flyball.kernels.philox`."""

from __future__ import annotations

import triton
import triton.language as tl

_MULTIPLIER_0 = tl.constexpr(0xD2511F53)
_MULTIPLIER_1 = tl.constexpr(0xCD9E8D57)
_KEY_STEP_0 = tl.constexpr(0x9E3779B9)
_KEY_STEP_1 = tl.constexpr(0xBB67AE85)
_CELL = tl.constexpr(2.0**-32)


@triton.jit
def philox(c0, place, last, seed):
    """Four words (uint32) for counters (c0, place, 0, last) under the key `seed`.

    Args:
        c0: a block of uint32; the words have its shape.
        place: int64, its lower 32 bits count.
        last: the fourth word of the counter.
        seed: int64.
    """
    c1 = tl.zeros_like(c0) + place.to(tl.uint32)
    c2 = tl.zeros_like(c0)
    c3 = tl.zeros_like(c0) + last
    k0 = seed.to(tl.uint32)
    k1 = (seed >> 32).to(tl.uint32)
    m0 = tl.full(c0.shape, _MULTIPLIER_0, tl.uint32)
    m1 = tl.full(c0.shape, _MULTIPLIER_1, tl.uint32)
    for _ in tl.static_range(10):
        high_0, high_1 = tl.umulhi(m0, c0), tl.umulhi(m1, c2)
        low_0, low_1 = m0 * c0, m1 * c2
        c0, c1, c2, c3 = high_1 ^ c1 ^ k0, low_1, high_0 ^ c3 ^ k1, low_0
        k0 += _KEY_STEP_0
        k1 += _KEY_STEP_1
    return c0, c1, c2, c3


@triton.jit
def uniform_pair(candidates, places, seed):
    """`philox.uniforms`: to test, and to draw, in float64.

    Args:
        candidates: (n,) numbers of candidates.
        places: (n,) int64.
        seed: int64.
    """
    w0, w1, w2, w3 = philox(candidates.to(tl.uint32), places, 1, seed)
    return _uniform(w0, w1), _uniform(w2, w3)


@triton.jit
def _uniform(first, second):
    upper, lower = (first >> 6).to(tl.float64), (second >> 6).to(tl.float64)
    return (upper * 67108864.0 + lower + 0.5) * 2.220446049250313e-16


@triton.jit
def token_words(start, place, seed, block: tl.constexpr):
    """The words of `block` tokens from `start` on, both multiples of 4; see `token_race`."""
    fours = (start // 4 + tl.arange(0, block // 4)).to(tl.uint32)
    w0, w1, w2, w3 = philox(fours, place, 0, seed)
    return tl.reshape(tl.join(tl.join(w0, w2), tl.join(w1, w3)), [block])


@triton.jit
def token_race(words):
    """exp(g) for the noise g of `philox.token_noise`, from `token_words`.

    With u = (w + 1/2) 2^-32, exp(g) = -1 / log(u): argmax p exp(g) is argmax (log p + g). In
    float32 u near 1 rounds away what decides the race; with y = fl(u) and v = fl(1 - u)

        -log(u) = -log(y) v / (1 - y)

    to a few roundings (Kahan's log1p), and v itself where y = 1.
    """
    y = (words.to(tl.float32) + 0.5) * _CELL
    v = ((~words).to(tl.float32) + 0.5) * _CELL
    near = y == 1.0
    return tl.where(near, 1.0, 1.0 - y) / (v * tl.where(near, 1.0, -tl.log(y)))


@triton.jit
def token_race_bound(words):
    """1 / v - 1/2 with v = 1 - u: from 0 to 1/2 more than `token_race`, at a third of its cost.

    -1 / log(1 - v) = 1 / v - 1/2 - v / 12 - ..., all of whose terms are negative.
    """
    root = tl.rsqrt(((~words).to(tl.float32) + 0.5) * _CELL)
    return root * root - 0.5
