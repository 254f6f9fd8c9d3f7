"""Chain verification in one read of the target's rows, and of one row of the draft's.

1. Every block of the rows 0..draft_len: m_b and s_b of `rows`. Where the draft is certain of x the
   block leaves x out: s_b then are the masses of the residual, and p(x) is added to Z, so that
   1 - p(x) is never a difference of nearly equal numbers.
2. A request: Z of each row, p(x) and q(x) of the drafted tokens, and

   standard:  num_accepted, the first column with u q(x) >= p(x);
   block:     P_i = min(P_{i-1} p(x_i) / q(x_i), 1), one after the other in registers.

3. Every block of the rows that count: sum_x max(P p - q, 0), with P = 1 for "standard", and
   sum_x min(p, q) where it is wanted. Such rows are read a second time: of "standard" the rejected
   one, of "block" and for the overlap all that it is asked about. Certain drafts have nothing to
   be compared: Z_i = P_i (1 - p(x_{i+1})).
4. A request: the prefix that is kept, and the next token by the inverse CDF. The blocks' masses,
   known by now, say in which block u falls; that one is read again.

Steps 1 and 2 are a launch, and 3 and 4: what concerns a request is done by the last of the
programs that work for it, while those of others still read. Blocks are compared in the reverse of
the order in which they were weighed: what the L2 cache still has of the target's rows is what was
read last.
"""

from __future__ import annotations

import torch

from flyball.kernels.gpu.rows import BLOCK, NUM_WARPS, adjacent, exponent, num_blocks, padded
from flyball.kernels.gpu.settle import settle_kernel
from flyball.kernels.gpu.weigh import weigh_kernel
from flyball.kernels.verify import Verification, Verified


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

    arrived = draft_len.new_zeros(2, count, dtype=torch.int32)
    rows = (logits, *logits.stride()[:2])
    others = (drawn, *draft_strides[:2])
    tokens, scale = draft_tokens.contiguous(), exponent(temperature)
    drafts = (tokens, draft_len, certain, seeds, places, tops, sums)
    of_rows = (row_top, row_mass, kept, p_drawn, q_drawn, accepted)
    sizes = (most, num_drawn, vocab, blocks, scale)
    shape = {"columns_padded": padded(most + 1), "blocks_padded": padded(blocks), "block": BLOCK}
    weigh_kernel[(count * (most + 1) * blocks,)](
        *rows, *others, *drafts, *of_rows, arrived[0], *sizes,
        has_points=certain is not None or num_drawn < most, **shape, num_warps=NUM_WARPS,
    )  # fmt: skip
    # What is compared of each request: the rejected row, or all that were drawn.
    columns = 1 if kept is None and overlaps is None else num_drawn
    settle_kernel[(count * (1 if drawn is None else columns * blocks),)](
        *rows, *others, *drafts, *of_rows, arrived[1], rests, overlaps,
        num_accepted, next_token, ratio, target_prob, overlap, bad.view(torch.uint8),
        *sizes, columns, **shape, num_warps=NUM_WARPS,
    )  # fmt: skip
    return found
