"""Tree verification: the spine as a chain, then the row of its first rejection for the siblings.

Steps 1 and 2 of `flyball.kernels.gpu.verify` weigh the spine's rows and say where its first token
is rejected. From there on a program a request goes over that one row, of p and of q. Candidates
are tested in turn against laws that need not be normalised: with P_1 = p, A_1 = 1, q_1 = q,

    P_{i+1} = max(P_i - c_i q_i, 0),   A_{i+1} = sum_x P_{i+1}(x),   c_i = A_i / Q_i,

where q_i is q without the first i - 1 candidates and Q_i its sum, p_i = P_i / A_i is what
`flyball.kernels.tree` says, and c_i = 0 where no residual is left. A row is gone through once for
each candidate that is rejected, all but the first time in the L2 cache. The next token is drawn
from the last P_i, or from p after the sibling that was taken, by the inverse CDF.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from flyball.kernels.gpu.draw import draw_block, draw_token
from flyball.kernels.gpu.philox import uniform_pair
from flyball.kernels.gpu.rows import (
    BLOCK,
    NUM_WARPS,
    adjacent,
    exponent,
    finite,
    num_blocks,
    padded,
)
from flyball.kernels.gpu.weigh import is_point, weigh_kernel
from flyball.kernels.tree import VerifiedTree

# A program goes through its row alone: what it has on its way is all that hides the latency.
_WIDE_BLOCK, _WIDE_WARPS = 8192, 16


@triton.jit
def _values(source, tokens, vocab):
    return tl.load(source + tokens, mask=tokens < vocab, other=float("-inf")).to(tl.float32)


@triton.jit
def _laws(
    source, drawn, tokens, vocab, drawn_until, point_at, top, mass, scale,
    candidates, factors, stages,
):  # fmt: skip
    """P after `stages` rejections, and q without their candidates, at tokens.

    q is read below `drawn_until`, and is 1 at `point_at`.
    """
    p = tl.exp2((_values(source, tokens, vocab) - finite(top)) * scale) / mass
    q = tl.where(tokens == point_at, 1.0, 0.0)
    if drawn is not None:
        q += tl.load(drawn + tokens, mask=tokens < drawn_until, other=0.0).to(tl.float32)
    for stage in range(stages):
        left = p - tl.load(factors + stage) * q
        p = tl.where(left < 0, 0.0, left)  # NaN stays
        q = tl.where(tokens == tl.load(candidates + stage), 0.0, q)
    return p, q


@triton.jit
def _row_mass(source, vocab, blocks, scale, block: tl.constexpr):
    """m, and Z, of the row at `source`."""
    top = float("-inf")
    for part in range(blocks):
        tokens = part * block + tl.arange(0, block)
        top = tl.maximum(top, tl.max(_values(source, tokens, vocab), axis=0))
    mass = 0.0
    for part in range(blocks):
        tokens = part * block + tl.arange(0, block)
        values = _values(source, tokens, vocab)
        mass += tl.sum(tl.exp2((values - finite(top)) * scale), axis=0)
    return top, tl.where(mass > 0, mass, float("nan"))


@triton.jit
def _settle_kernel(
    logits, request_stride, column_stride, draft, draft_stride, drawn_stride,
    candidates, draft_len, certain, seeds, places, row_top, row_mass, p_drawn, accepted,
    factors, weights, num_accepted, choice_out, path, next_token, target_prob, bad,
    most, width, num_drawn, vocab, blocks, scale,
    columns_padded: tl.constexpr, blocks_padded: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    request = tl.program_id(0).to(tl.int64)
    spine = tl.load(accepted + request).to(tl.int64)
    rejected = spine < tl.load(draft_len + request)
    row = request * (most + 1) + spine
    top, mass = tl.load(row_top + row), tl.load(row_mass + row)
    source = logits + request * request_stride + spine * column_stride
    tried = candidates + (request * most + spine) * width
    seed, place = tl.load(seeds + request), tl.load(places + request)
    point = is_point(request, spine, num_drawn, certain)
    point_at = tl.load(tried, mask=rejected & point, other=-1)
    drawn, drawn_until = None, 0
    if draft is not None:
        drawn = draft + request * draft_stride + spine * drawn_stride
        drawn_until = tl.where(rejected & (point == 0), vocab, 0)

    own = factors + request * width
    total, drawn_total, choice, stages, unlike = 1.0, 1.0, 0, 0, 0
    missed = tl.where(rejected, 1, 0)
    for number in range(1, width + 1):
        if missed != 0:
            missed = 0
            tl.store(own + stages, total / drawn_total)
            tl.debug_barrier()
            left, others = 0.0, 0.0
            for part in range(blocks):
                tokens = part * block + tl.arange(0, block)
                p, q = _laws(source, drawn, tokens, vocab, drawn_until, point_at, top, mass, scale,
                             tried, own, stages + 1)  # fmt: skip
                left += tl.sum(p, axis=0)
                others += tl.sum(q, axis=0)
            tl.debug_barrier()
            if left > 0:
                total = left
            else:
                tl.store(own + stages, 0.0)
                tl.debug_barrier()
            unlike = unlike | tl.where(left != left, 1, 0)
            drawn_total = tl.where(others > 0, others, 1.0)
            stages += 1
            if number < width:
                sibling = tl.load(tried + number)
                if sibling >= 0:
                    p, q = _laws(source, drawn, sibling, vocab, drawn_until, point_at, top, mass,
                                 scale, tried, own, stages)  # fmt: skip
                    to_test, _ = uniform_pair(tl.zeros([1], tl.int32) + number,
                                              tl.zeros([1], tl.int64) + place + spine,
                                              seed)  # fmt: skip
                    u = tl.max(to_test, axis=0)
                    passed = u * (q / drawn_total).to(tl.float64) < (p / total).to(tl.float64)
                    choice = tl.where(passed, number, choice)
                    missed = tl.where(passed, 0, 1)

    columns = tl.arange(0, columns_padded)
    at = request * (most + 1) + columns
    masses = tl.load(row_mass + at, mask=columns <= spine, other=1.0)
    unlike = unlike | tl.max((masses != masses).to(tl.int32), axis=0)
    probs = tl.load(p_drawn + at, mask=columns < spine, other=0.0)
    column, count = spine, spine
    if choice > 0:
        # What follows comes from p after the sibling, whose own probability is p's above it.
        sibling = tl.load(tried + choice)
        p = tl.exp2((_values(source, sibling, vocab) - finite(top)) * scale) / mass
        probs = tl.where(columns == spine, p, probs)
        column = most + spine * (width - 1) + choice
        count = spine + 1
        source = logits + request * request_stride + column * column_stride
        top, mass = _row_mass(source, vocab, blocks, scale, block)
        unlike = unlike | (mass != mass).to(tl.int32)
        stages = 0
    for part in range(blocks):
        tokens = part * block + tl.arange(0, block)
        p, q = _laws(source, drawn, tokens, vocab, drawn_until, point_at, top, mass, scale,
                     tried, own, stages)  # fmt: skip
        tl.store(weights + request * blocks + part, tl.sum(p, axis=0))
    tl.debug_barrier()
    parts = tl.arange(0, blocks_padded)
    of_blocks = tl.load(weights + request * blocks + parts, mask=parts < blocks, other=0.0)
    _, to_draw = uniform_pair(tl.zeros([1], tl.int32), tl.zeros([1], tl.int64) + place + count,
                              seed)  # fmt: skip
    part, wanted = draw_block(of_blocks, tl.max(to_draw, axis=0))
    tokens = part * block + tl.arange(0, block)
    p, q = _laws(source, drawn, tokens, vocab, drawn_until, point_at, top, mass, scale,
                 tried, own, stages)  # fmt: skip
    token = tl.maximum(draw_token(p, tokens, wanted), 0)
    following = tl.exp2((_values(source, token, vocab) - finite(top)) * scale) / mass

    fine = unlike == 0
    probs = tl.where(columns == count, following, probs)
    probs = tl.where(columns <= tl.where(fine, count, -1), probs, float("nan"))
    tl.store(target_prob + at, probs, mask=columns <= most)
    tl.store(path + at, tl.where(columns == count, column, columns), mask=columns <= most)
    tl.store(num_accepted + request, tl.where(fine, count, 0))
    tl.store(choice_out + request, tl.where(fine, choice, 0).to(tl.int64))
    tl.store(next_token + request, tl.where(fine, token, -1).to(tl.int64))
    tl.store(bad + request, unlike.to(tl.uint8))


def verify_tree(
    target_logits: torch.Tensor,
    draft: torch.Tensor | None,
    candidates: torch.Tensor,
    draft_len: torch.Tensor,
    seeds: torch.Tensor,
    places: torch.Tensor,
    *,
    temperature: float = 1.0,
    certain: torch.Tensor | None = None,
) -> VerifiedTree:
    """See `flyball.kernels.tree.verify_tree`."""
    count, most, width = candidates.shape
    logits, candidates = adjacent(target_logits), candidates.contiguous()
    vocab, blocks = logits.shape[2], num_blocks(logits.shape[2])
    drawn = None if draft is None or draft.shape[1] == 0 else adjacent(draft)
    num_drawn, draft_strides = (0, (0, 0)) if drawn is None else (drawn.shape[1], drawn.stride())
    certain = None if certain is None else certain.contiguous().view(torch.uint8)

    def floats(*shape: int) -> torch.Tensor:
        return logits.new_empty(shape, dtype=torch.float32)

    def longs(*shape: int) -> torch.Tensor:
        return draft_len.new_empty(shape, dtype=torch.int64)

    found = VerifiedTree(
        longs(count), longs(count), longs(count, most + 1), longs(count),
        floats(count, most + 1), draft_len.new_empty(count, dtype=torch.bool),
    )  # fmt: skip
    if count == 0:
        return found
    tops, sums = floats(2, count, most + 1, blocks).unbind()
    row_top, row_mass, p_drawn, q_drawn = floats(4, count, most + 1).unbind()
    accepted = draft_len.new_empty(count, dtype=torch.int32)
    rows, others = (logits, *logits.stride()[:2]), (drawn, *draft_strides[:2])
    spine, scale = candidates[:, :, 0].contiguous(), exponent(temperature)
    weigh_kernel[(count * (most + 1) * blocks,)](
        *rows, *others, spine, draft_len, certain, seeds, places, tops, sums,
        row_top, row_mass, None, p_drawn, q_drawn, accepted, accepted.new_zeros(count),
        most, num_drawn, vocab, blocks, scale, has_points=certain is not None or num_drawn < most,
        columns_padded=padded(most + 1), blocks_padded=padded(blocks), block=BLOCK,
        num_warps=NUM_WARPS,
    )  # fmt: skip
    wide = -(-vocab // _WIDE_BLOCK)
    _settle_kernel[(count,)](
        *rows, *others, candidates, draft_len, certain, seeds, places,
        row_top, row_mass, p_drawn, accepted, floats(count, width), floats(count, wide),
        found.num_accepted, found.choice, found.path, found.next_token, found.target_prob,
        found.bad.view(torch.uint8), most, width, num_drawn, vocab, wide, scale,
        columns_padded=padded(most + 1), blocks_padded=padded(wide), block=_WIDE_BLOCK,
        num_warps=_WIDE_WARPS,
    )  # fmt: skip
    return found
