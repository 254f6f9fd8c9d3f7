"""Blocks of a row of logits, and the softmax that is put together from them.

Each block b of a row of logits l, at temperature T, leaves

    m_b = max_x l(x),   s_b = sum_x exp((l(x) - m_b) / T),

and with m = max_b m_b the probabilities of the row are, wherever they are wanted,

    p(x) = exp((l(x) - m) / T) / Z,   Z = sum_b s_b exp((m_b - m) / T).

A NaN or +inf in a row makes Z NaN, and a row of -inf alone makes it 0: Z > 0 says that the row is
a distribution. Halves are widened as they are read; everything is computed in float32.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl

# 4,096 logits a program are 32 registers a thread of 128 in float32: a dozen programs fit a
# multiprocessor and keep some 100 kB on their way, where 3.35 TB/s at 1 us of latency ask for 25.
# 64 requests of 5 rows of 128,256 are 10,240 programs; one row still is 32.
BLOCK = 4096
NUM_WARPS = 4


def num_blocks(vocab: int) -> int:
    """Blocks that a row is cut into."""
    return -(-vocab // BLOCK)


def padded(count: int) -> int:
    """The size of a kernel's axis that holds `count` things, a power of two."""
    return 1 << (count - 1).bit_length()


def exponent(temperature: float) -> float:
    """What differences of logits are multiplied by for exp2 to give exp(. / T)."""
    return math.log2(math.e) / temperature


def adjacent(values: torch.Tensor) -> torch.Tensor:
    """`values` (..., vocab) with adjacent tokens; copied only where strides ask for it."""
    return values if values.stride(-1) == 1 or values.shape[-1] == 1 else values.contiguous()


@triton.jit
def finite(top):
    """A maximum to subtract: -inf minus -inf is NaN, -inf minus 0 is not."""
    return tl.where(top == float("-inf"), 0.0, top)


@triton.jit
def block_mass(values, scale):
    """m_b, and s_b, of one block of values; a NaN shows in the sum."""
    top = tl.max(values, axis=0)
    return top, tl.sum(tl.exp2((values - finite(top)) * scale), axis=0)


@triton.jit
def row_mass(tops, sums, scale):
    """m, and Z, from the blocks of a row, (blocks,) each."""
    top = tl.max(tops, axis=0)
    return top, tl.sum(sums * tl.exp2((tops - finite(top)) * scale), axis=0)


@triton.jit
def is_last(counter, expected):
    """Whether all others of `expected` programs have come here: what they stored can be read.

    They add nothing up but how many they are, so that results do not depend on their order.
    """
    tl.debug_barrier()
    return tl.atomic_add(counter, 1, sem="acq_rel") == expected - 1
