"""Compaction of a cache in place: what moves is read once and written once.

    x[r, h, start_r + i] = x[r, h, source_ri],   i = 0, 1, ...

A program takes a head of a row from front to back, some columns at a time. Sources ascend and are
at or behind their targets, so that what a later step reads no earlier one has written over; within
a step all is read before any is written.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl

from flyball.kernels.gpu.rows import padded

# Times a head of 128 in half precision: 4 kB a step, in a few registers a thread.
_COLUMNS = 16


@triton.jit
def _compact_kernel(
    states, row_stride, head_stride, column_stride, source, start, heads, size, count,
    columns: tl.constexpr, size_padded: tl.constexpr,
):  # fmt: skip
    row, head = (tl.program_id(0) // heads).to(tl.int64), tl.program_id(0) % heads
    base = states + row * row_stride + head * head_stride
    lanes = tl.arange(0, size_padded)
    first = tl.load(start + row)
    for begin in range(0, count, columns):
        numbers = begin + tl.arange(0, columns)
        taken = tl.load(source + row * count + numbers, mask=numbers < count, other=-1)
        there = (taken >= 0)[:, None] & (lanes < size)[None, :]
        value = tl.load(base + taken[:, None] * column_stride + lanes[None, :], mask=there)
        tl.debug_barrier()
        target = (first + numbers)[:, None] * column_stride + lanes[None, :]
        tl.store(base + target, value, mask=there)


def compact(buffers: Sequence[torch.Tensor], source: torch.Tensor, start: torch.Tensor) -> None:
    """See `flyball.kernels.cache.compact`."""
    source = source.contiguous()
    if source.numel() == 0:
        return
    for buffer in buffers:
        rows, heads, _, size = buffer.shape
        _compact_kernel[(rows * heads,)](
            buffer, *buffer.stride()[:3], source, start, heads, size, source.shape[1],
            columns=_COLUMNS, size_padded=padded(size), num_warps=4,
        )  # fmt: skip
