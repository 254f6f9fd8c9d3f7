"""Confidence of rows of logits, each read once.

With m, Z of `rows`, and of each block b besides

    t_b = sum_x ((l(x) - m_b) / T) exp((l(x) - m_b) / T),

    largest = 1 / Z,   log_sum_exp = m / T + log Z,   margin = (1 - exp((m' - m) / T)) / Z,
    entropy = log Z - t / Z,   t = sum_b (t_b + s_b (m_b - m) / T) exp((m_b - m) / T),

where m' is the second largest logit.

A second kernel, a program a row, puts blocks together, and reads the block with the largest logit
again, a 32nd of a row of 128,256: which token it is and which comes next would take each program
of the first kernel a third of its instructions, more than there is time for at two bytes a logit.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from flyball.kernels.confidence import Confidence
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

_LN_2 = tl.constexpr(0.6931471805599453)


@triton.jit
def _block_kernel(
    logits, stride, tops, sums, turns, vocab, blocks, scale,
    entropy: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    row = (tl.program_id(0) // blocks).to(tl.int64)
    part = tl.program_id(0) % blocks
    tokens = part * block + tl.arange(0, block)
    values = tl.load(logits + row * stride + tokens, mask=tokens < vocab, other=float("-inf"))
    values = values.to(tl.float32)
    top, mass = block_mass(values, scale)
    at = row * blocks + part
    tl.store(tops + at, top)
    tl.store(sums + at, mass)
    if entropy:
        steps = (values - finite(top)) * scale
        # Tokens without weight: 0 times -inf is NaN.
        turn = tl.where(values == float("-inf"), 0.0, steps) * tl.exp2(steps)
        tl.store(turns + at, tl.sum(turn, axis=0))


@triton.jit
def _row_kernel(
    logits, stride, tops, sums, turns,
    largest, token_out, max_logit, log_sum_exp, entropy_out, margin_out,
    vocab, blocks, scale, inverse_temperature,
    entropy: tl.constexpr, margin: tl.constexpr, blocks_padded: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    parts = tl.arange(0, blocks_padded)
    at = row * blocks + parts
    top_parts = tl.load(tops + at, mask=parts < blocks, other=float("-inf"))
    sum_parts = tl.load(sums + at, mask=parts < blocks, other=0.0)
    top, mass = row_mass(top_parts, sum_parts, scale)
    good = mass > 0
    mass = tl.where(good, mass, float("nan"))
    tl.store(largest + row, 1.0 / mass)
    # A maximum of what is left of a row with NaNs says nothing.
    tl.store(max_logit + row, tl.where(good, top * inverse_temperature, float("nan")))
    tl.store(log_sum_exp + row, top * inverse_temperature + tl.log(mass))
    if entropy:
        turn_parts = tl.load(turns + at, mask=parts < blocks, other=0.0)
        steps = (top_parts - finite(top)) * scale
        carried = turn_parts + sum_parts * tl.where(top_parts == float("-inf"), 0.0, steps)
        turn = tl.sum(carried * tl.exp2(steps), axis=0)
        tl.store(entropy_out + row, tl.log(mass) - _LN_2 * turn / mass)

    part = tl.min(tl.where(top_parts == top, parts, blocks - 1), axis=0)
    tokens = part * block + tl.arange(0, block)
    values = tl.load(logits + row * stride + tokens, mask=tokens < vocab, other=float("-inf"))
    values = values.to(tl.float32)
    token = tl.min(tl.where(values == top, tokens, vocab - 1), axis=0)
    tl.store(token_out + row, token.to(tl.int64))
    if margin:
        beside = tl.max(tl.where(tokens == token, float("-inf"), values), axis=0)
        elsewhere = tl.max(tl.where(parts == part, float("-inf"), top_parts), axis=0)
        second = tl.maximum(beside, elsewhere)
        tl.store(margin_out + row, (1.0 - tl.exp2((second - finite(top)) * scale)) / mass)


def confidence(
    logits: torch.Tensor, temperature: float = 1.0, *, entropy: bool = True, margin: bool = True
) -> Confidence:
    """See `flyball.kernels.confidence.confidence`."""
    shape, vocab = logits.shape[:-1], logits.shape[-1]
    rows = adjacent(logits.reshape(-1, vocab))
    count, blocks, scale = len(rows), num_blocks(vocab), exponent(temperature)
    of_blocks = rows.new_empty(3, count, blocks, dtype=torch.float32)
    found = rows.new_empty(5, count, dtype=torch.float32)
    token = rows.new_empty(count, dtype=torch.int64)
    if count:
        _block_kernel[(count * blocks,)](
            rows, rows.stride(0), *of_blocks.unbind(), vocab, blocks, scale,
            entropy=entropy, block=BLOCK, num_warps=NUM_WARPS,
        )  # fmt: skip
        _row_kernel[(count,)](
            rows, rows.stride(0), *of_blocks.unbind(),
            found[0], token, found[1], found[2], found[3], found[4],
            vocab, blocks, scale, 1.0 / temperature,
            entropy=entropy, margin=margin, blocks_padded=padded(blocks), block=BLOCK,
            num_warps=NUM_WARPS,
        )  # fmt: skip
    largest, max_logit, log_sum_exp, nats, gap = found.view(5, *shape).unbind()
    return Confidence(
        largest,
        token.view(shape),
        max_logit,
        log_sum_exp,
        nats if entropy else None,
        gap if margin else None,
    )
