"""The acceptance head for a few rows: a kernel a block, bound by reading the block's weights once.

    x <- x + SiLU(W x + b),   D times;   logit = v . x + c

All of x must be there before any of W x, so that blocks follow each other; within one the matrix
product, bias, SiLU and residual are one kernel. A program takes 16 outputs, for 16 rows at a time,
the least that a matrix unit multiplies. Sums are those of single precision.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

# 16 outputs: a hidden size of 896 still fills 56 multiprocessors, 4,096 all of them.
_OUTPUTS = 16
_ROWS = 16
_INPUTS = 256


@triton.jit
def _block_kernel(
    x, y, weight, bias, rows, hidden,
    tile_rows: tl.constexpr, outputs: tl.constexpr, inputs: tl.constexpr, precision: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(1) * tile_rows + tl.arange(0, tile_rows)
    out = tl.program_id(0) * outputs + tl.arange(0, outputs)
    total = tl.zeros([tile_rows, outputs], tl.float32)
    for begin in range(0, hidden, inputs):
        at = begin + tl.arange(0, inputs)
        mine = (row < rows)[:, None] & (at < hidden)[None, :]
        states = tl.load(x + row[:, None] * hidden + at[None, :], mask=mine, other=0.0)
        mine = (out < hidden)[None, :] & (at < hidden)[:, None]
        # Row-major weights, read as they lie: adjacent inputs of an output.
        source = weight + out[None, :].to(tl.int64) * hidden + at[:, None]
        weights = tl.load(source, mask=mine, other=0.0)
        # Halves are exact in TF32, which keeps more of the states than rounding them would.
        states, weights = states.to(tl.float32), weights.to(tl.float32)
        total = tl.dot(states, weights, total, input_precision=precision)
    total += tl.load(bias + out, mask=out < hidden, other=0.0).to(tl.float32)[None, :]
    mine = (row < rows)[:, None] & (out < hidden)[None, :]
    here = row[:, None] * hidden + out[None, :]
    gated = total / (1.0 + tl.exp(-total))
    tl.store(y + here, tl.load(x + here, mask=mine, other=0.0).to(tl.float32) + gated, mask=mine)


@triton.jit
def _logit_kernel(x, out_weight, out_bias, logit, hidden, inputs: tl.constexpr):
    row = tl.program_id(0)
    total = tl.zeros([inputs], tl.float32)
    for begin in range(0, hidden, inputs):
        at = begin + tl.arange(0, inputs)
        states = tl.load(x + row * hidden + at, mask=at < hidden, other=0.0).to(tl.float32)
        total += states * tl.load(out_weight + at, mask=at < hidden, other=0.0).to(tl.float32)
    tl.store(logit + row, tl.sum(total, axis=0) + tl.load(out_bias).to(tl.float32))


def acceptance_logit(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    out_weight: torch.Tensor,
    out_bias: torch.Tensor,
) -> torch.Tensor:
    """See `flyball.kernels.head.acceptance_logit`."""
    size = hidden.shape[-1]
    x = hidden.reshape(-1, size).contiguous()
    count = len(x)
    logit = hidden.new_empty(hidden.shape[:-1])
    if count == 0:
        return logit
    precision = "ieee" if weight.dtype == torch.float32 else "tf32"
    grid = (-(-size // _OUTPUTS), -(-count // _ROWS))
    # Two buffers: while some programs write a block's outputs, others still read its inputs.
    buffers = x.new_empty(2, count, size, dtype=torch.float32)
    for number, (block_weight, block_bias) in enumerate(
        zip(weight.contiguous(), bias.contiguous(), strict=True)
    ):
        y = buffers[number % 2]
        _block_kernel[grid](
            x, y, block_weight, block_bias, count, size,
            tile_rows=_ROWS, outputs=_OUTPUTS, inputs=_INPUTS, precision=precision, num_warps=4,
        )  # fmt: skip
        x = y
    _logit_kernel[(count,)](
        x, out_weight.contiguous(), out_bias, logit, size, inputs=1024, num_warps=4
    )
    return logit
