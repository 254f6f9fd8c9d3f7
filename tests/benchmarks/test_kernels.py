"""The kernels' benchmark runs every operation, and counts what it says it counts."""

from __future__ import annotations

import pytest
import torch
from benchmarks import kernels
from benchmarks.kernels_cases import NUM_MEMBERS, OPS, Batch, Shape, build

SHAPE = Shape(requests=2, draft_len=3, vocab=70)


@pytest.mark.parametrize("op", OPS)
def test_every_operation_is_timed_against_its_reference(op: str) -> None:
    torch.manual_seed(0)
    batch = Batch(SHAPE, "cpu", seed=1)
    rows = kernels._turns(op, build(op, batch), batch, compiles=False, quick=True)
    found = {row["implementation"]: row for row in rows}
    assert {"copy", "ours", "eager"} <= set(found)
    assert found["copy"]["of_copy"] == 1.0 and found["ours"]["slower"] == 1.0
    assert all(row["ms"] > 0 for row in rows)


def test_bytes_are_those_that_nobody_can_avoid() -> None:
    batch = Batch(SHAPE, "cpu", seed=1)
    target = 2 * 4 * 70 * 4
    assert build("confidence", batch).num_bytes == target
    assert build("verify_certain", batch).num_bytes == target
    assert build("mix_draw", batch).num_bytes == 2 * NUM_MEMBERS * 70 * 4
    assert build("verify_block", batch).num_bytes == target + 2 * 3 * 70 * 4
    assert 0 <= build("verify", batch).num_bytes - target <= 2 * 70 * 4
    assert 0 <= build("verify_tree", batch).num_bytes - target <= 2 * 2 * 70 * 4


def test_what_does_not_run_is_a_row() -> None:
    def broken() -> None:
        raise NotImplementedError("no such kernel\nhere")

    assert kernels._warm(broken) == "NotImplementedError: no such kernel"
