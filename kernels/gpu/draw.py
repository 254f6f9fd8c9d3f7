"""The inverse CDF over blocks: which block u falls in, then which of its tokens.

The token is the first x in the order of the vocabulary with sum_{y <= x} w(y) > u sum_y w(y), of
those that have a weight at all. Rounding may leave every sum short of the last of them, which is
it then.
"""

from __future__ import annotations

import triton
import triton.language as tl

_NO_TOKEN = tl.constexpr(2**31 - 1)


@triton.jit
def draw_block(weights, u):
    """The block that u of the blocks' weights falls in, and what is left of u's share in it.

    Args:
        weights: (n,) float32, of blocks.
        u: float64, in (0, 1).
    """
    parts = tl.arange(0, weights.shape[0])
    weights = weights.to(tl.float64)
    wanted = u * tl.sum(weights, axis=0)
    part = _first(weights, parts, wanted)
    before = tl.sum(tl.where(parts < part, weights, 0.0), axis=0)
    return tl.maximum(part, 0), (wanted - before).to(tl.float32)


@triton.jit
def draw_token(weights, tokens, wanted):
    """The token that `wanted` of weights (n,) at tokens (n,) falls in; -1 where none has any."""
    return _first(weights, tokens, wanted)


@triton.jit
def _first(weights, places, wanted):
    some = weights > 0
    reached = some & (tl.cumsum(weights, axis=0) > wanted)
    last = tl.max(tl.where(some, places, -1), axis=0)
    return tl.minimum(tl.min(tl.where(reached, places, _NO_TOKEN), axis=0), last)
