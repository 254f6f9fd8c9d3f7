"""Chain verification in one read of the target's rows, and of one row of the draft's.

1. `mass_kernel`, every block of the rows 0..draft_len: m_b and s_b of `rows`. Where the draft is
   certain of x the block leaves x out: s_b then are the masses of the residual, and p(x) is added
   to Z, so that 1 - p(x) is never a difference of nearly equal numbers.
2. `weigh_kernel`, a request: Z of each row, p(x) and q(x) of the drafted tokens, and

   standard:  num_accepted, the first column with u q(x) >= p(x);
   block:     P_i = min(P_{i-1} p(x_i) / q(x_i), 1), one after the other in registers.

3. `_compare_kernel`, every block of the rows that count: sum_x max(P p - q, 0), with P = 1 for
   "standard", and sum_x min(p, q) where it is wanted. Such rows are read a second time: of
   "standard" the rejected one, of "block" and for the overlap all that it is asked about.
   Certain drafts have nothing to be compared: Z_i = P_i (1 - p(x_{i+1})).
4. `settle_kernel`, a request: the prefix that is kept, and the next token by the inverse CDF. The
   blocks' masses, known by now, say in which block u falls; that one is read again.

Blocks are compared in the reverse of the order in which they were weighed: what the L2 cache still
has of the target's rows is what was read last.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from flyball.kernels.gpu.philox import uniform_pair
from flyball.kernels.gpu.rows import (
    BLOCK,
    NUM_WARPS,
    adjacent,
    block_mass,
    exponent,
    finite,
    num_blocks,
    padded,
)
from flyball.kernels.gpu.settle import is_point, rest, settle_kernel
from flyball.kernels.verify import Verification, Verified


@triton.jit
def mass_kernel(
    logits, request_stride, column_stride, draft_tokens, draft_len, certain, tops, sums,
    most, num_drawn, vocab, blocks, scale, has_points: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    """Step 1, a program a block."""
    part = tl.program_id(0) % blocks
    row = (tl.program_id(0) // blocks).to(tl.int64)
    request, column = row // (most + 1), row % (most + 1)
    length = tl.load(draft_len + request)
    if column > length:
        return
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


@triton.jit
def weigh_kernel(
    logits, request_stride, column_stride, draft, draft_stride, drawn_stride,
    draft_tokens, draft_len, certain, seeds, places, tops, sums,
    row_top, row_mass, kept, p_drawn, q_drawn, accepted, most, num_drawn, blocks, scale,
    columns_padded: tl.constexpr, blocks_padded: tl.constexpr,
):  # fmt: skip
    """Step 2, a program a request."""
    request = tl.program_id(0).to(tl.int64)
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


@triton.jit
def _compare_kernel(
    logits, request_stride, column_stride, draft, draft_stride, drawn_stride,
    draft_len, certain, row_top, row_mass, kept, accepted, rests, overlaps,
    most, num_drawn, vocab, blocks, scale, columns, block: tl.constexpr,
):  # fmt: skip
    index = tl.num_programs(0) - 1 - tl.program_id(0)
    part = index % blocks
    request = (index // blocks // columns).to(tl.int64)
    column = (index // blocks % columns).to(tl.int64)
    last = tl.load(draft_len + request) - 1
    if kept is None:
        # The rejected column, and the accepted ones before it where their overlap is wanted.
        rejected = tl.load(accepted + request).to(tl.int64)
        if overlaps is None:
            column = rejected
        else:
            last = tl.minimum(last, rejected)
    if (column > last) | is_point(request, column, num_drawn, certain):
        return
    tokens = part * block + tl.arange(0, block)
    inside = tokens < vocab
    source = draft + request * draft_stride + column * drawn_stride + tokens
    # Nobody reads them again, and the target's rows should stay.
    q = tl.load(source, mask=inside, other=0.0, eviction_policy="evict_first").to(tl.float32)
    source = logits + request * request_stride + column * column_stride + tokens
    values = tl.load(source, mask=inside, other=float("-inf")).to(tl.float32)
    row = request * (most + 1) + column
    p = tl.exp2((values - tl.load(row_top + row)) * scale) * (1.0 / tl.load(row_mass + row))
    share = 1.0
    if kept is not None:
        share = tl.load(kept + row)
    tl.store(rests + row * blocks + part, tl.sum(rest(p, q, share), axis=0))
    if overlaps is not None:
        tl.store(overlaps + row * blocks + part, tl.sum(tl.where(p < q, p, q), axis=0))


def verify(
    target_logits: torch.Tensor,
    draft: torch.Tensor | None,
    draft_tokens: torch.Tensor,
    draft_len: torch.Tensor,
    seeds: torch.Tensor,
    places: torch.Tensor,
    *,
    temperature: float = 1.0,
    method: Verification = "standard",
    certain: torch.Tensor | None = None,
    wants_overlap: bool = False,
) -> Verified:
    """See `flyball.kernels.verify.verify`."""
    count, most = draft_tokens.shape
    logits = adjacent(target_logits)
    vocab, blocks = logits.shape[2], num_blocks(logits.shape[2])
    drawn = None if draft is None or draft.shape[1] == 0 else adjacent(draft)
    num_drawn, draft_strides = (0, (0, 0)) if drawn is None else (drawn.shape[1], drawn.stride())
    certain = None if certain is None else certain.contiguous().view(torch.uint8)

    def floats(*shape: int) -> torch.Tensor:
        return logits.new_empty(shape, dtype=torch.float32)

    tops, sums, rests = floats(3, count, most + 1, blocks).unbind()
    row_top, row_mass, p_drawn, q_drawn = floats(4, count, most + 1).unbind()
    kept = floats(count, most + 1) if method == "block" else None
    accepted = draft_len.new_empty(count, dtype=torch.int32)
    overlaps = floats(count, most + 1, blocks) if wants_overlap and drawn is not None else None
    overlap = floats(count, most) if wants_overlap else None
    num_accepted, next_token = draft_len.new_empty(2, count, dtype=torch.int64).unbind()
    ratio, target_prob = floats(count, most), floats(count, most + 1)
    bad = draft_len.new_empty(count, dtype=torch.bool)
    found = Verified(num_accepted, next_token, ratio, target_prob, bad, overlap)
    if count == 0:
        return found

    rows = (logits, *logits.stride()[:2])
    others = (drawn, *draft_strides[:2])
    tokens, scale = draft_tokens.contiguous(), exponent(temperature)
    pads = {"columns_padded": padded(most + 1), "blocks_padded": padded(blocks)}
    mass_kernel[(count * (most + 1) * blocks,)](
        *rows, tokens, draft_len, certain, tops, sums, most, num_drawn, vocab, blocks, scale,
        has_points=certain is not None or num_drawn < most, block=BLOCK, num_warps=NUM_WARPS,
    )  # fmt: skip
    drafts = (tokens, draft_len, certain, seeds, places, tops, sums)
    of_rows = (row_top, row_mass, kept, p_drawn, q_drawn, accepted)
    weigh_kernel[(count,)](
        *rows, *others, *drafts, *of_rows, most, num_drawn, blocks, scale,
        **pads, num_warps=NUM_WARPS,
    )  # fmt: skip
    if drawn is not None:
        columns = 1 if kept is None and overlaps is None else num_drawn
        _compare_kernel[(count * columns * blocks,)](
            *rows, *others, draft_len, certain, row_top, row_mass, kept, accepted, rests, overlaps,
            most, num_drawn, vocab, blocks, scale, columns, block=BLOCK, num_warps=NUM_WARPS,
        )  # fmt: skip
    settle_kernel[(count,)](
        *rows, *others, *drafts, *of_rows, rests, overlaps,
        num_accepted, next_token, ratio, target_prob, overlap, bad.view(torch.uint8),
        most, num_drawn, vocab, blocks, scale, **pads, block=BLOCK, num_warps=NUM_WARPS,
    )  # fmt: skip
    return found
