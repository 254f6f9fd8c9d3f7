"""Settings, their grid and their names."""

from __future__ import annotations

import numpy as np
import pytest

from flyball.policies.throttle.space import Knob, Space

SPACE = Space(
    (
        Knob("graphics_clock_mhz", (600.0, 900.0, 1200.0), "clock", default=2, safe=2),
        Knob("attention", ("eager", "sdpa"), "category", default=1, safe=0),
    )
)


def test_the_grid_holds_every_setting_once_at_its_index() -> None:
    assert SPACE.num_settings == len(SPACE.grid) == 6
    np.testing.assert_array_equal(SPACE.index(SPACE.grid), np.arange(6))


def test_a_setting_is_named_as_the_actuator_takes_it_and_comes_back() -> None:
    assert SPACE.named(SPACE.default) == {"graphics_clock_mhz": 1200.0, "attention": "sdpa"}
    for setting in SPACE.grid:
        np.testing.assert_array_equal(SPACE.placed(SPACE.named(setting)), setting)


def test_columns_are_the_values_of_a_knob() -> None:
    np.testing.assert_array_equal(
        SPACE.column(0, SPACE.grid), [600.0, 600.0, 900.0, 900.0, 1200.0, 1200.0]
    )


def test_values_that_a_knob_does_not_have_are_refused_in_one_line() -> None:
    with pytest.raises(ValueError, match="expected for graphics_clock_mhz one of .* got 700"):
        SPACE.placed({"graphics_clock_mhz": 700.0, "attention": "sdpa"})
    with pytest.raises(ValueError, match="expected for attention"):
        SPACE.placed({"graphics_clock_mhz": 600.0})


@pytest.mark.parametrize("values", [(2.0, 1.0), (1.0, 1.0), (1.0, float("nan"))])
def test_numbers_that_do_not_ascend_are_refused(values: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="threads: expected ascending numbers"):
        Knob("threads", values, "count", default=0, safe=0)


def test_places_outside_the_values_are_refused() -> None:
    with pytest.raises(ValueError, match="expected a place from 0 to 0"):
        Knob("threads", (1.0,), "count", default=1, safe=0)
