"""What physics certifies is never slower than it says."""

from __future__ import annotations

import numpy as np

from flyball.estimators.measured import Measured
from flyball.policies.throttle.certified import certified, slowdown
from flyball.policies.throttle.space import Knob, Space

SPACE = Space(
    (
        Knob("graphics_clock_mhz", (500.0, 800.0, 1000.0), "clock", 2, 2),
        Knob("memory_clock_mhz", (400.0, 1000.0), "clock", 1, 1),
        Knob("batch_size", (1.0, 8.0), "count", 1, 1),
    )
)
LOAD = np.array([10.0, 8.0, 0.0])


def test_slowdown_is_that_of_the_clock_that_falls_most_and_infinite_for_other_knobs() -> None:
    found = slowdown(SPACE, SPACE.grid, np.array([[2, 1, 1]]))
    by_row = {tuple(row): value for row, value in zip(SPACE.grid.tolist(), found, strict=True)}
    assert by_row[2, 1, 1] == 1.0
    assert by_row[1, 1, 1] == 1.25
    assert by_row[1, 0, 1] == 2.5
    assert by_row[2, 1, 0] == np.inf


def test_slowdown_from_any_setting_leaves_other_knobs_aside() -> None:
    found = slowdown(SPACE, SPACE.grid, np.array([[2, 1, 1], [0, 1, 0]]), alike=False)
    by_row = {tuple(row): value for row, value in zip(SPACE.grid.tolist(), found, strict=True)}
    assert by_row[2, 1, 0] == by_row[0, 1, 1] == 1.0
    assert by_row[0, 0, 1] == 2.5


def certifies(slo_s: float, load: np.ndarray = LOAD) -> set[tuple[int, ...]]:
    measured = Measured(3, ("energy", "latency"))
    measured.add(np.array([2, 1, 1]), LOAD, np.log([1.0, 0.1]), 100_000, 10.0)
    found = certified(
        SPACE, SPACE.grid, load, measured, measured.mean[:, 1], measured.variance[:, 1], slo_s
    )
    return {tuple(row) for row in SPACE.grid[found].tolist()}


def test_settings_within_the_bound_are_certified_and_no_others() -> None:
    assert certifies(0.05) == set()
    assert certifies(0.135) == {(2, 1, 1), (1, 1, 1)}


def test_a_busy_machine_and_another_load_certify_nothing() -> None:
    assert certifies(10.0, LOAD * [3.0, 1.0, 1.0]) == set()
    assert len(certifies(10.0)) == 6
