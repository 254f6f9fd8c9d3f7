"""Cost tables: means of rounds, and interruptions that are nobody's own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from flyball.integrations.hf.measure import CostMeasurement, Grid
from flyball.integrations.hf.stats import RoundStats


def rounds(draft_len: int, verify_s: list[float], step_s: float = 1e-3) -> list[RoundStats]:
    """Rounds of one request that draft for 1 ms a token and take 1 ms beside the models."""
    return [
        RoundStats(
            slots=np.array([0], np.int32),
            draft_len=np.array([draft_len]),
            num_accepted=np.array([0]),
            draft=np.array([0], np.int32),
            num_tokens=1,
            step_s=seconds + step_s * draft_len + 1e-3,
            draft_s=step_s * draft_len,
            verify_s=seconds,
        )
        for seconds in verify_s
    ]


def test_an_interruption_is_shared_out_among_all_rounds(tiny: Any) -> None:
    model = tiny(1, 8, seed=0)
    grid = Grid(batch_sizes=(1,), draft_lens=(0, 2, 4))
    measured = CostMeasurement(model, model, [[1]], grid, ("target", "draft"))
    measured._found.prompt_token.append(1e-3)
    for draft_len in grid.draft_lens:
        seconds = [0.009, 0.011] * 50
        if draft_len == 2:
            seconds[6] = 2.0  # stopped by something else
        measured._note(1, draft_len, rounds(draft_len, seconds))
        if draft_len:
            measured._note(1, draft_len, rounds(draft_len, seconds, 1.5e-3), asks=True)
    table = measured.table()
    (verify_s,), (step_s,), (host_s,) = table.verify_s, table.draft_step_s, table.host_s
    assert table.ask_s == pytest.approx([0.5 * step_s])  # 1.5 ms a token, not 1 ms
    assert verify_s == pytest.approx([verify_s[0]] * 3, rel=0.03)
    whole = 100 * (3 * 0.010 + 6e-3 + 3e-3) + 2.0 - 0.009
    # The table's rounds take what all rounds took.
    assert 100 * (sum(verify_s) + 6 * step_s + 3 * host_s) == pytest.approx(whole, rel=0.01)
