"""Steps 3 and 4 of verification: what is left of p, the prefix that is kept, the next token."""

from __future__ import annotations

import triton
import triton.language as tl

from flyball.kernels.gpu.draw import draw_block, draw_token
from flyball.kernels.gpu.philox import uniform_pair
from flyball.kernels.gpu.rows import finite, is_last
from flyball.kernels.gpu.weigh import is_point


@triton.jit
def _rest(p, q, kept):
    """max(kept p - q, 0); NaN stays."""
    difference = kept * p - q
    return tl.where(difference < 0, 0.0, difference)


@triton.jit
def _longest_prefix(
    request, columns, length, point, mass, surplus, kept, tops, sums, row_top, seeds, places,
    most, blocks, scale, blocks_padded: tl.constexpr,
):  # fmt: skip
    """num_accepted of block verification, and which columns (n,) cannot be judged.

    `surplus` (n,) is Z where q was drawn from.
    """
    at = request * (most + 1) + columns
    counts, parts = columns <= length, tl.arange(0, blocks_padded)
    share = tl.load(kept + at, mask=counts, other=1.0)
    # Of a point mass: P times what the blocks hold without it.
    there = point[:, None] & (parts < blocks)[None, :]
    blocks_at = at[:, None] * blocks + parts[None, :]
    top = tl.load(row_top + at, mask=counts, other=0.0)
    top_parts = tl.load(tops + blocks_at, mask=there, other=float("-inf"))
    sum_parts = tl.load(sums + blocks_at, mask=there, other=0.0)
    others = tl.sum(sum_parts * tl.exp2((top_parts - finite(top)[:, None]) * scale), axis=1)
    surplus = tl.where(point, share * others / mass, surplus)
    whole = share >= 1.0  # 0 / 0 where p = q; 1 in the limit, and everywhere else
    chance = tl.where(whole, 1.0, surplus / tl.where(whole, 1.0, surplus + 1.0 - share))
    chance = tl.where(columns == length, share, chance)
    # A prefix is tested at the place of its last token.
    place = tl.load(places + request) + columns - 1
    to_test, _ = uniform_pair(columns * 0, place, tl.load(seeds + request))
    prefix = (columns >= 1) & counts
    passed = prefix & (to_test < chance.to(tl.float64))
    number = tl.max(tl.where(passed, columns, 0), axis=0)
    # Prefixes are tried from the longest one on, up to the one that passes.
    rests_on = (columns < length) | (columns == number)
    untold = (share != share) | ((chance != chance) & (columns > number))
    unlike = (rests_on & (mass != mass)) | (prefix & untold)
    return number.to(tl.int64), unlike


@triton.jit
def settle_kernel(
    logits, request_stride, column_stride, draft, draft_stride, drawn_stride,
    draft_tokens, draft_len, certain, seeds, places, tops, sums,
    row_top, row_mass, kept, p_drawn, q_drawn, accepted, arrived, rests, overlaps,
    num_accepted, next_token, ratio, target_prob, overlap, bad,
    most, num_drawn, vocab, blocks, scale, columns,
    columns_padded: tl.constexpr, blocks_padded: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    """Step 3, a program a block of each of `columns` rows; step 4 by the last of a request.

    Where there is nothing to compare, one program a request.
    """
    request = tl.program_id(0).to(tl.int64)
    expected = 1
    if draft is not None:
        index = tl.num_programs(0) - 1 - tl.program_id(0)
        request = (index // blocks // columns).to(tl.int64)
        column = (index // blocks % columns).to(tl.int64)
        expected = columns * blocks
        _compare(
            request, column, index % blocks, logits, request_stride, column_stride,
            draft, draft_stride, drawn_stride, draft_len, certain, row_top, row_mass, kept,
            accepted, rests, overlaps, most, num_drawn, vocab, blocks, scale, block,
        )  # fmt: skip
    if is_last(arrived + request, expected):
        _settle(
            request, logits, request_stride, column_stride, draft, draft_stride, drawn_stride,
            draft_tokens, draft_len, certain, seeds, places, tops, sums,
            row_top, row_mass, kept, p_drawn, q_drawn, accepted, rests, overlaps,
            num_accepted, next_token, ratio, target_prob, overlap, bad,
            most, num_drawn, vocab, blocks, scale, columns_padded, blocks_padded, block,
        )  # fmt: skip


@triton.jit
def _compare(
    request, column, part, logits, request_stride, column_stride, draft, draft_stride,
    drawn_stride, draft_len, certain, row_top, row_mass, kept, accepted, rests, overlaps,
    most, num_drawn, vocab, blocks, scale, block: tl.constexpr,
):  # fmt: skip
    last = tl.load(draft_len + request) - 1
    if kept is None:
        # The rejected column, and the accepted ones before it where their overlap is wanted.
        rejected = tl.load(accepted + request).to(tl.int64)
        if overlaps is None:
            column = rejected
        else:
            last = tl.minimum(last, rejected)
    if (column <= last) & (is_point(request, column, num_drawn, certain) == 0):
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
        tl.store(rests + row * blocks + part, tl.sum(_rest(p, q, share), axis=0))
        if overlaps is not None:
            tl.store(overlaps + row * blocks + part, tl.sum(tl.where(p < q, p, q), axis=0))


@triton.jit
def _settle(
    request, logits, request_stride, column_stride, draft, draft_stride, drawn_stride,
    draft_tokens, draft_len, certain, seeds, places, tops, sums,
    row_top, row_mass, kept, p_drawn, q_drawn, accepted, rests, overlaps,
    num_accepted, next_token, ratio, target_prob, overlap, bad,
    most, num_drawn, vocab, blocks, scale,
    columns_padded: tl.constexpr, blocks_padded: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    """Step 4 of a request."""
    columns, parts = tl.arange(0, columns_padded), tl.arange(0, blocks_padded)
    length = tl.load(draft_len + request)
    counts, drafted = columns <= length, columns < length
    at = request * (most + 1) + columns
    blocks_at = at[:, None] * blocks + parts[None, :]
    within = parts < blocks
    point = drafted & is_point(request, columns, num_drawn, certain)
    from_draft = (drafted & (point == 0))[:, None] & within[None, :]
    mass = tl.load(row_mass + at, mask=counts, other=1.0)
    p = tl.load(p_drawn + at, mask=drafted, other=0.0)
    q = tl.load(q_drawn + at, mask=drafted, other=1.0)
    if kept is not None:
        surplus = p
        if draft is not None:
            surplus = tl.sum(tl.load(rests + blocks_at, mask=from_draft, other=0.0), axis=1)
        column, unlike = _longest_prefix(
            request, columns, length, point, mass, surplus, kept, tops, sums, row_top, seeds,
            places, most, blocks, scale, blocks_padded,
        )  # fmt: skip
    else:
        column = tl.load(accepted + request).to(tl.int64)
        unlike = (columns <= column) & ((counts & (mass != mass)) | (drafted & (q != q)))
    unknown = tl.max(unlike.to(tl.int32), axis=0)

    # Weights of blocks: of p without the token that a certain draft was rejected at.
    row = request * (most + 1) + column
    top, total = tl.load(row_top + row), tl.load(row_mass + row)
    top_parts = tl.load(tops + row * blocks + parts, mask=within, other=float("-inf"))
    weights = tl.load(sums + row * blocks + parts, mask=within, other=0.0)
    weights = weights * tl.exp2((top_parts - finite(top)) * scale) / total
    rejected = column < length
    at_point = rejected & is_point(request, column, num_drawn, certain)
    left_out = tl.load(draft_tokens + request * most + column, mask=at_point, other=-1)
    from_rest = rejected & (at_point == 0)
    if draft is not None:
        near = parts < tl.where(from_rest, blocks, 0)
        rest_parts = tl.load(rests + row * blocks + parts, mask=near, other=0.0)
        whole = tl.sum(rest_parts, axis=0)
        unknown = unknown | (whole != whole).to(tl.int32)
        # p = q up to rounding leaves no residual; p is its limit.
        from_rest = from_rest & (whole > 0)
        weights = tl.where(from_rest, rest_parts, weights)
    numbers = columns * 0
    _, to_draw = uniform_pair(numbers, tl.load(places + request) + column + numbers,
                              tl.load(seeds + request))  # fmt: skip
    part, wanted = draw_block(weights, tl.max(to_draw, axis=0))

    tokens = part * block + tl.arange(0, block)
    source = logits + request * request_stride + column * column_stride
    values = tl.load(source + tokens, mask=tokens < vocab, other=float("-inf")).to(tl.float32)
    values = tl.where(tokens == left_out.to(tl.int32), float("-inf"), values)
    weights = tl.exp2((values - finite(top)) * scale) / total
    if draft is not None:
        other = draft + request * draft_stride + column * drawn_stride + tokens
        near = tokens < tl.where(from_rest, vocab, 0)
        other_q = tl.load(other, mask=near, other=0.0).to(tl.float32)
        share = 1.0
        if kept is not None:
            share = tl.load(kept + row)
        weights = tl.where(from_rest, _rest(weights, other_q, share), weights)
    token = draw_token(weights, tokens, wanted).to(tl.int64)
    # Certain of the only token there is: it is rejected with probability zero.
    token = tl.where(token < 0, left_out, token)
    fine = unknown == 0
    logit = tl.load(source + token, mask=fine, other=float("-inf")).to(tl.float32)
    following = tl.exp2((logit - finite(top)) * scale) / total

    tl.store(num_accepted + request, tl.where(fine, column, 0))
    tl.store(next_token + request, tl.where(fine, token, -1))
    tl.store(bad + request, unknown.to(tl.uint8))
    seen = drafted & (columns <= column) & fine
    here = request * most + columns
    tl.store(ratio + here, tl.where(seen, p / q, float("nan")), mask=columns < most)
    probs = tl.where(columns == column, following, p)
    probs = tl.where(fine & (columns <= column), probs, float("nan"))
    tl.store(target_prob + at, probs, mask=columns <= most)
    if overlap is not None:
        shared = p
        if draft is not None:
            shared = tl.sum(tl.load(overlaps + blocks_at, mask=from_draft, other=0.0), axis=1)
            shared = tl.where(point, p, shared)
        shared = tl.where(seen, shared, float("nan"))
        tl.store(overlap + here, shared, mask=columns < most)
