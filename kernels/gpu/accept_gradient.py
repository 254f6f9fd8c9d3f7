"""What settled tokens show of an ensemble's members: every distribution is read once.

The target's rows are weighed first (m_b, s_b of `rows`), since p is needed to compare with; they
are read a second time beside the members', in the reverse order, for the sake of the L2 cache.
Each block then leaves for every member

    sum_x q_j(x) [sum_i w_i q_i(x) < p(x)],   sum_x min(p(x), q_j(x)),

and a program a row adds blocks up, and looks at the settled token.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from flyball.kernels.accept_gradient import AcceptGradient
from flyball.kernels.gpu.rows import (
    BLOCK,
    NUM_WARPS,
    adjacent,
    block_mass,
    exponent,
    finite,
    num_blocks,
    padded,
    row_mass,
)


@triton.jit
def _mass_kernel(logits, stride, tops, sums, vocab, blocks, scale, block: tl.constexpr):
    row = (tl.program_id(0) // blocks).to(tl.int64)
    part = tl.program_id(0) % blocks
    tokens = part * block + tl.arange(0, block)
    values = tl.load(logits + row * stride + tokens, mask=tokens < vocab, other=float("-inf"))
    top, mass = block_mass(values.to(tl.float32), scale)
    tl.store(tops + row * blocks + part, top)
    tl.store(sums + row * blocks + part, mass)


@triton.jit
def _compare_kernel(
    logits, stride, drafts, row_stride, member_stride, shares, present, tops, sums,
    ascents, overlaps, members, vocab, blocks, mass_blocks, scale,
    members_padded: tl.constexpr, blocks_padded: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    index = tl.num_programs(0) - 1 - tl.program_id(0)
    part = index % blocks
    row = (index // blocks).to(tl.int64)
    parts, rows = tl.arange(0, blocks_padded), tl.arange(0, members_padded)
    masses = row * mass_blocks + parts
    top_parts = tl.load(tops + masses, mask=parts < mass_blocks, other=float("-inf"))
    sum_parts = tl.load(sums + masses, mask=parts < mass_blocks, other=0.0)
    top, mass = row_mass(top_parts, sum_parts, scale)

    tokens = part * block + tl.arange(0, block)
    asked = rows < members
    if present is not None:
        asked = asked & (tl.load(present + row * members + rows, mask=asked, other=0) != 0)
    share = tl.load(shares + row * members + rows, mask=asked, other=0.0).to(tl.float32)
    source = drafts + row * row_stride + rows[:, None] * member_stride + tokens[None, :]
    q = tl.load(source, mask=asked[:, None] & (tokens < vocab)[None, :], other=0.0,
                eviction_policy="evict_first").to(tl.float32)  # fmt: skip
    values = tl.load(logits + row * stride + tokens, mask=tokens < vocab, other=float("-inf"))
    p = tl.exp2((values.to(tl.float32) - finite(top)) * scale) * (1.0 / mass)
    below = tl.sum(q * share[:, None], axis=0) < p
    at = (row * members + rows) * blocks + part
    shared = tl.where(q < p[None, :], q, p[None, :])
    tl.store(ascents + at, tl.sum(tl.where(below[None, :], q, 0.0), axis=1), mask=rows < members)
    tl.store(overlaps + at, tl.sum(shared, axis=1), mask=rows < members)


@triton.jit
def _sum_kernel(
    drafts, row_stride, member_stride, present, tokens, ascents, overlaps,
    ascent, overlap, log_prob, members, blocks,
    members_padded: tl.constexpr, blocks_padded: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    parts, rows = tl.arange(0, blocks_padded), tl.arange(0, members_padded)
    asked = rows < members
    out = row * members + rows
    if present is not None:
        asked = asked & (tl.load(present + out, mask=asked, other=0) != 0)
    there = asked[:, None] & (parts < blocks)[None, :]
    at = out[:, None] * blocks + parts[None, :]
    climbed = tl.sum(tl.load(ascents + at, mask=there, other=0.0), axis=1)
    shared = tl.sum(tl.load(overlaps + at, mask=there, other=0.0), axis=1)
    source = drafts + row * row_stride + rows * member_stride + tl.load(tokens + row)
    own = tl.log(tl.load(source, mask=asked, other=1.0).to(tl.float32))
    absent = float("nan")
    tl.store(ascent + out, tl.where(asked, climbed, absent), mask=rows < members)
    tl.store(overlap + out, tl.where(asked, shared, absent), mask=rows < members)
    tl.store(log_prob + out, tl.where(asked, own, absent), mask=rows < members)


def accept_gradient(
    target_logits: torch.Tensor,
    members: torch.Tensor,
    shares: torch.Tensor,
    tokens: torch.Tensor,
    *,
    temperature: float = 1.0,
    present: torch.Tensor | None = None,
) -> AcceptGradient:
    """See `flyball.kernels.accept_gradient.accept_gradient`."""
    logits, drafts = adjacent(target_logits), adjacent(members)
    count, num_members, vocab = drafts.shape

    def floats(*shape: int) -> torch.Tensor:
        return logits.new_empty(shape, dtype=torch.float32)

    found = AcceptGradient(*floats(3, count, num_members).unbind())
    if count == 0:
        return found
    there = None if present is None else present.contiguous().view(torch.uint8)
    # A block of all members together fills the registers that one of a single row does.
    rows_padded, mass_blocks, scale = padded(num_members), num_blocks(vocab), exponent(temperature)
    block = max(BLOCK // rows_padded, 128)
    blocks = -(-vocab // block)
    tops, sums = floats(2, count, mass_blocks).unbind()
    ascents, overlaps = floats(2, count, num_members, blocks).unbind()
    row = (logits, logits.stride(0))
    of_drafts = (drafts, *drafts.stride()[:2])
    _mass_kernel[(count * mass_blocks,)](
        *row, tops, sums, vocab, mass_blocks, scale, block=BLOCK, num_warps=NUM_WARPS
    )
    _compare_kernel[(count * blocks,)](
        *row, *of_drafts, shares.contiguous(), there, tops, sums, ascents, overlaps,
        num_members, vocab, blocks, mass_blocks, scale, members_padded=rows_padded,
        blocks_padded=padded(mass_blocks), block=block, num_warps=NUM_WARPS,
    )  # fmt: skip
    _sum_kernel[(count,)](
        *of_drafts, there, tokens, ascents, overlaps,
        found.ascent, found.overlap, found.log_prob, num_members, blocks,
        members_padded=rows_padded, blocks_padded=padded(blocks), num_warps=NUM_WARPS,
    )  # fmt: skip
    return found
