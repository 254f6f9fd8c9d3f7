"""Compaction in place leaves what a copy would."""

from __future__ import annotations

import pytest
import torch

from flyball.kernels.gpu.cache import compact
from flyball.kernels.reference.cache import compact as reference


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("head_size", [12, 64])
def test_columns_move_as_in_the_reference(dtype: torch.dtype, head_size: int, device: str) -> None:
    torch.manual_seed(0)
    wide = torch.randn(4, 2, 90, head_size).to(dtype)
    buffers = [wide[:, :, :80], torch.randn(4, 3, 80, head_size).to(dtype)]
    start = torch.tensor([5, 0, 1, 20])
    source = torch.full((4, 50), -1)
    for row, count in enumerate((50, 0, 3, 37)):
        chosen = torch.randperm(80 - int(start[row]))[:count].sort().values
        source[row, :count] = chosen + start[row]
    expected = [buffer.clone() for buffer in buffers]
    reference(expected, source, start)
    found = [buffer.to(device) for buffer in buffers]
    compact(found, source.to(device), start.to(device))
    assert all(torch.equal(x.cpu(), y) for x, y in zip(found, expected, strict=True))
    compact(found, source[:, :0].to(device), start.to(device))
    assert all(torch.equal(x.cpu(), y) for x, y in zip(found, expected, strict=True))
