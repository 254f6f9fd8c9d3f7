"""Compaction of a cache, against columns put together by hand."""

from __future__ import annotations

import torch

from flyball.kernels.cache import compact


def test_kept_columns_close_up_in_place() -> None:
    torch.manual_seed(0)
    keys, values = torch.randn(2, 3, 2, 8, 4).unbind()
    before = keys.clone(), values.clone()
    start, source = torch.tensor([2, 0, 5]), torch.tensor([[3, 4, 7], [-1, -1, -1], [6, -1, -1]])
    compact([keys, values], source, start)
    for now, then in zip((keys, values), before, strict=True):
        assert torch.equal(now[0, :, :5], then[0][:, [0, 1, 3, 4, 7]])
        assert torch.equal(now[1], then[1])
        assert torch.equal(now[2, :, :6], then[2][:, [0, 1, 2, 3, 4, 6]])


def test_nothing_to_move_is_no_error() -> None:
    compact([], torch.zeros(1, 0, dtype=torch.int64), torch.zeros(1, dtype=torch.int64))
    keys = torch.randn(2, 1, 4, 3)
    before = keys.clone()
    compact([keys], torch.full((2, 2), -1), torch.zeros(2, dtype=torch.int64))
    assert torch.equal(keys, before)
