"""A draw from a mixture, in one read of the members' logits.

With e_j(x) = exp((l_j(x) - m_jb) / T) <= 1 in block b, and a bound r(x) of the noise exp(g(x)),
at most 1/2 too high (`philox.token_race_bound`; 1 where the mixture's argmax is wanted), each
block of a row leaves for each member

    m_jb,   s_jb = sum_x e_j(x),   h_jb = max_x e_j(x) r(x).

Once all blocks are known, so are Z_j and a_jb = w_j exp((m_jb - m_j) / T) / Z_j, and

    max_x sum_j a_jb e_j(x) exp(g(x)) <= sum_j a_jb h_jb   in block b,
    max_x sum_j a_jb e_j(x) exp(g(x)) >= a_jb (h_jb - 1/2)   in block b, for any j.

A program a row reads again only blocks whose upper bound reaches the largest of all lower ones,
and computes their noise: few, since the noise has a heavy tail, and greedily the vocabulary has.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from flyball.kernels.gpu.philox import token_race, token_race_bound, token_words
from flyball.kernels.gpu.rows import (
    BLOCK,
    NUM_WARPS,
    adjacent,
    exponent,
    finite,
    num_blocks,
    padded,
)
from flyball.kernels.mix import Drawn

_NO_TOKEN = tl.constexpr(2**31 - 1)
# Of bounds: what rounding may take from either side.
_SLACK = tl.constexpr(1.0 + 1e-4)


@triton.jit
def _bound_kernel(
    logits, row_stride, member_stride, shares, seeds, places, tops, sums, highs,
    members, vocab, blocks, scale, greedy: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    part = tl.program_id(0) % blocks
    row = (tl.program_id(0) // blocks).to(tl.int64)
    tokens = part * block + tl.arange(0, block)
    race = 1.0
    if not greedy:
        words = token_words(part * block, tl.load(places + row), tl.load(seeds + row), block)
        race = token_race_bound(words)
    for member in range(members):
        pair = row * members + member
        if tl.load(shares + pair) > 0:
            source = logits + row * row_stride + member * member_stride + tokens
            values = tl.load(source, mask=tokens < vocab, other=float("-inf")).to(tl.float32)
            top = tl.max(values, axis=0)
            weights = tl.exp2((values - finite(top)) * scale)
            tl.store(tops + pair * blocks + part, top)
            tl.store(sums + pair * blocks + part, tl.sum(weights, axis=0))
            tl.store(highs + pair * blocks + part, tl.max(weights * race, axis=0))


@triton.jit
def _row_kernel(
    logits, row_stride, member_stride, shares, seeds, places, tops, sums, highs,
    token_out, prob_out, log_sum_exp, members, vocab, blocks, scale, inverse_temperature,
    greedy: tl.constexpr, members_padded: tl.constexpr, blocks_padded: tl.constexpr,
    block: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    parts, rows = tl.arange(0, blocks_padded), tl.arange(0, members_padded)
    share = tl.load(shares + row * members + rows, mask=rows < members, other=0.0).to(tl.float32)
    there = (share > 0)[:, None] & (parts < blocks)[None, :]
    blocks_at = (row * members + rows)[:, None] * blocks + parts[None, :]
    top_parts = tl.load(tops + blocks_at, mask=there, other=float("-inf"))
    sum_parts = tl.load(sums + blocks_at, mask=there, other=0.0)
    high_parts = tl.load(highs + blocks_at, mask=there, other=0.0)
    top = tl.max(top_parts, axis=1)
    carried = tl.exp2((top_parts - finite(top)[:, None]) * scale)
    mass = tl.sum(sum_parts * carried, axis=1)
    mass = tl.where((share > 0) & (mass > 0), mass, float("nan"))
    found = top * inverse_temperature + tl.log(mass)
    tl.store(log_sum_exp + row * members + rows, found, mask=rows < members)
    unlike = tl.max(((share > 0) & (mass != mass)).to(tl.int32), axis=0)

    factor = carried * tl.where(share > 0, share / mass, 0.0)[:, None]
    doubt = 0.0 if greedy else 0.5
    reached = tl.max(tl.max(factor * (high_parts - doubt), axis=1), axis=0)
    bounds = tl.sum(factor * high_parts, axis=0)
    reaches = (bounds * _SLACK >= reached) & (parts < blocks)
    best, token, prob = -1.0, -1, float("nan")
    part = tl.min(tl.where(reaches, parts, blocks), axis=0)
    while part < tl.where(unlike == 0, blocks, 0):
        tokens = part * block + tl.arange(0, block)
        mixture = tl.zeros([block], tl.float32)
        for member in range(members):
            own = tl.sum(tl.where(rows == member, share, 0.0), axis=0)
            if own > 0:
                source = logits + row * row_stride + member * member_stride + tokens
                values = tl.load(source, mask=tokens < vocab, other=float("-inf")).to(tl.float32)
                own_top = tl.max(tl.where(rows == member, top, float("-inf")), axis=0)
                own_mass = tl.sum(tl.where(rows == member, mass, 0.0), axis=0)
                mixture += tl.exp2((values - own_top) * scale) * (own / own_mass)
        score = mixture
        if not greedy:
            start = part * block
            words = token_words(start, tl.load(places + row), tl.load(seeds + row), block)
            score *= token_race(words)
        score = tl.where(tokens < vocab, score, -1.0)
        largest = tl.max(score, axis=0)
        if largest > best:
            best = largest
            token = tl.min(tl.where(score == largest, tokens, _NO_TOKEN), axis=0)
            prob = tl.sum(tl.where(tokens == token, mixture, 0.0), axis=0)
        part = tl.min(tl.where(reaches & (parts > part), parts, blocks), axis=0)
    tl.store(token_out + row, token)
    tl.store(prob_out + row, prob)


def mix_draw(
    logits: torch.Tensor,
    shares: torch.Tensor,
    seeds: torch.Tensor,
    places: torch.Tensor,
    *,
    temperature: float = 1.0,
    greedy: bool = False,
) -> Drawn:
    """See `flyball.kernels.mix.mix_draw`."""
    logits, shares = adjacent(logits), shares.contiguous()
    count, members, vocab = logits.shape
    blocks, scale = num_blocks(vocab), exponent(temperature)

    def floats(*shape: int) -> torch.Tensor:
        return logits.new_empty(shape, dtype=torch.float32)

    drawn = Drawn(seeds.new_empty(count), floats(count), floats(count, members))
    if count == 0:
        return drawn
    of_members = floats(3, count, members, blocks).unbind()
    given = (logits, *logits.stride()[:2], shares, seeds, places, *of_members)
    _bound_kernel[(count * blocks,)](
        *given, members, vocab, blocks, scale,
        greedy=greedy, block=BLOCK, num_warps=NUM_WARPS,
    )  # fmt: skip
    _row_kernel[(count,)](
        *given, drawn.token, drawn.prob, drawn.log_sum_exp,
        members, vocab, blocks, scale, 1.0 / temperature,
        greedy=greedy, members_padded=padded(members), blocks_padded=padded(blocks),
        block=BLOCK, num_warps=NUM_WARPS,
    )  # fmt: skip
    return drawn
