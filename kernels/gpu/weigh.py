"""Steps 1 and 2 of verification: what the target gives to each row, and to the drafted tokens."""

from __future__ import annotations

import triton
import triton.language as tl

from flyball.kernels.gpu.philox import uniform_pair
from flyball.kernels.gpu.rows import block_mass, finite, is_last


@triton.jit
def is_point(request, columns, num_drawn, certain):
    """Whether the draft is certain at columns: a point mass at the drafted token."""
    if certain is not None:
        num_drawn = tl.where(tl.load(certain + request) != 0, 0, num_drawn)
    return columns >= num_drawn


@triton.jit
def weigh_kernel(
    logits, request_stride, column_stride, draft, draft_stride, drawn_stride,
    draft_tokens, draft_len, certain, seeds, places, tops, sums,
    row_top, row_mass, kept, p_drawn, q_drawn, accepted, arrived,
    most, num_drawn, vocab, blocks, scale,
    has_points: tl.constexpr, columns_padded: tl.constexpr, blocks_padded: tl.constexpr,
    block: tl.constexpr,
):  # fmt: skip
    """Step 1, a program a block; step 2 by the last program of a request."""
    part = tl.program_id(0) % blocks
    row = (tl.program_id(0) // blocks).to(tl.int64)
    request, column = row // (most + 1), row % (most + 1)
    length = tl.load(draft_len + request)
    if column <= length:
        tokens = part * block + tl.arange(0, block)
        source = logits + request * request_stride + column * column_stride + tokens
        values = tl.load(source, mask=tokens < vocab, other=float("-inf")).to(tl.float32)
        if has_points:
            point = (column < length) & is_point(request, column, num_drawn, certain)
            drafted = tl.load(draft_tokens + request * most + column, mask=point, other=-1)
            values = tl.where(tokens == drafted.to(tl.int32), float("-inf"), values)
        top, mass = block_mass(values, scale)
        tl.store(tops + row * blocks + part, top)
        tl.store(sums + row * blocks + part, mass)
    if is_last(arrived + request, (most + 1) * blocks):
        _weigh(
            request, logits, request_stride, column_stride, draft, draft_stride, drawn_stride,
            draft_tokens, draft_len, certain, seeds, places, tops, sums,
            row_top, row_mass, kept, p_drawn, q_drawn, accepted,
            most, num_drawn, blocks, scale, columns_padded, blocks_padded,
        )  # fmt: skip


@triton.jit
def _weigh(
    request, logits, request_stride, column_stride, draft, draft_stride, drawn_stride,
    draft_tokens, draft_len, certain, seeds, places, tops, sums,
    row_top, row_mass, kept, p_drawn, q_drawn, accepted, most, num_drawn, blocks, scale,
    columns_padded: tl.constexpr, blocks_padded: tl.constexpr,
):  # fmt: skip
    """Step 2 of a request."""
    columns, parts = tl.arange(0, columns_padded), tl.arange(0, blocks_padded)
    length = tl.load(draft_len + request)
    counts, drafted = columns <= length, columns < length
    at = request * (most + 1) + columns
    there = counts[:, None] & (parts < blocks)[None, :]
    blocks_at = at[:, None] * blocks + parts[None, :]
    top_parts = tl.load(tops + blocks_at, mask=there, other=float("-inf"))
    sum_parts = tl.load(sums + blocks_at, mask=there, other=0.0)

    token = tl.load(draft_tokens + request * most + columns, mask=drafted, other=0)
    source = logits + request * request_stride + columns * column_stride + token
    logit = tl.load(source, mask=drafted, other=float("-inf")).to(tl.float32)
    point = drafted & is_point(request, columns, num_drawn, certain)
    # The token that a certain draft leaves out of its block may be the largest.
    top = tl.maximum(tl.max(top_parts, axis=1), tl.where(point, logit, float("-inf")))
    steps = (top_parts - finite(top)[:, None]) * scale
    weight = tl.exp2((logit - finite(top)) * scale)
    mass = tl.sum(sum_parts * tl.exp2(steps), axis=1) + tl.where(point, weight, 0.0)
    mass = tl.where(mass > 0, mass, float("nan"))
    p = weight / mass
    q = tl.full([columns_padded], 1.0, tl.float32)
    if draft is not None:
        source = draft + request * draft_stride + columns * drawn_stride + token
        q = tl.load(source, mask=drafted & (point == 0), other=1.0).to(tl.float32)
    tl.store(row_top + at, top, mask=counts)
    tl.store(row_mass + at, mass, mask=counts)
    tl.store(p_drawn + at, p, mask=drafted)
    tl.store(q_drawn + at, q, mask=drafted)
    if kept is not None:
        tl.store(kept + at, _kept_shares(p / q, columns, most), mask=counts)
    else:
        numbers = columns * 0
        place = tl.load(places + request) + columns
        to_test, _ = uniform_pair(numbers, place, tl.load(seeds + request))
        passed = drafted & (to_test * q.to(tl.float64) < p.to(tl.float64))
        tl.store(accepted + request, tl.min(tl.where(passed, columns_padded, columns), axis=0))


@triton.jit
def _kept_shares(ratio, columns, most):
    """P_0 .. P_K from ratios (n,) at columns (n,); NaN stays."""
    share = 1.0
    shares = tl.full(columns.shape, 1.0, tl.float32)
    for column in range(most):
        share = share * tl.sum(tl.where(columns == column, ratio, 0.0), axis=0)
        share = tl.where(share > 1.0, 1.0, share)
        shares = tl.where(columns == column + 1, share, shares)
    return shares
