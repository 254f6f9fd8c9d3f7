"""The trust region is as wide as what was tried deserves."""

from __future__ import annotations

import numpy as np

from flyball.policies.throttle.space import Knob, Space
from flyball.policies.throttle.trust import TrustRegion

CLOCKS = tuple(np.arange(100.0, 1001.0, 100.0))
SPACE = Space(
    (
        Knob("graphics_clock_mhz", CLOCKS, "clock", 9, 9),
        Knob("draft_len", (0.0, 2.0), "count", 0, 0),
    )
)


def lowest(trust: TrustRegion, *kept: int) -> float:
    settings = np.array([[place, 0] for place in kept], np.intp).reshape(-1, 2)
    held = SPACE.grid[trust.holds(SPACE, SPACE.grid, settings)]
    return min(CLOCKS[place] for place in held[:, 0].tolist())


def test_it_begins_at_half_the_safe_clocks_and_other_knobs_are_free() -> None:
    trust = TrustRegion()
    assert lowest(trust) == 500.0
    held = trust.holds(SPACE, SPACE.grid, SPACE.safe[None])
    np.testing.assert_array_equal(held, SPACE.grid[:, 0] >= 4)


def test_it_follows_the_slowest_setting_that_kept_the_limits() -> None:
    assert lowest(TrustRegion(), 9, 5) == 300.0


def test_it_grows_on_success_and_shrinks_on_failure_down_to_a_step() -> None:
    trust = TrustRegion()
    for _ in range(2):
        trust.note(True)
    assert lowest(trust) == 400.0
    for _ in range(9):
        trust.note(False)
    assert lowest(trust) == 1000.0
    np.testing.assert_allclose(np.exp(trust.radius), 1.1)
    for _ in range(99):
        trust.note(True)
    assert lowest(trust) == 100.0
