"""Every registered throttle policy obeys the contract."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from throttle_toy import CONTEXT, SLO, SPACE, toy_window

from flyball.policies.registry import THROTTLE_POLICIES
from flyball.policies.throttle.base import Context, Goal, ThrottlePolicy, Window
from flyball.policies.throttle.space import Knob, Places, Space

NAMES = pytest.mark.parametrize("name", THROTTLE_POLICIES)
WINDOWS = 40

# What may become of the window that was decided; None where it is lost.
Fate = Callable[[Window, np.random.Generator], Window | None]


def make(name: str, space: Space = SPACE, goal: Goal | None = None, seed: int = 0) -> Any:
    policy = THROTTLE_POLICIES[name]
    goal = goal or Goal(latency_slo_s=SLO)
    return policy(policy.Settings(policy=name), space, goal, np.random.default_rng(seed))


def seen(window: Window, rng: np.random.Generator) -> Window | None:
    return window


def lost(window: Window, rng: np.random.Generator) -> Window | None:
    return window if rng.random() < 0.5 else None


def unmeasured(window: Window, rng: np.random.Generator) -> Window | None:
    nan = float("nan")
    change: dict[str, Any] = [
        {},
        {"energy_j": nan},
        {"latency_s": nan, "num_tokens": 0},
        {"energy_j": nan, "latency_s": nan},
        {"energy_j": 0.0},
        {"energy_j": -1.0},
    ][rng.integers(6)]
    return replace(window, **change)


def unlike(window: Window, rng: np.random.Generator) -> Window | None:
    """Somebody else set something else in half of all windows."""
    if rng.random() < 0.5:
        return window
    setting = SPACE.grid[rng.integers(SPACE.num_settings)]
    return toy_window(SPACE, setting, window.context, rng)


def never(window: Window, rng: np.random.Generator) -> Window | None:
    return None


def check(setting: Places, space: Space) -> None:
    assert isinstance(setting, np.ndarray)
    assert setting.shape == (len(space.knobs),)
    assert setting.dtype == np.intp
    assert (setting >= 0).all()
    assert (setting < space.shape).all()


def play(
    policy: ThrottlePolicy, seed: int = 0, num_windows: int = WINDOWS, fate: Fate = seen
) -> list[list[int]]:
    """Settings of windows under a load that wanders."""
    rng = np.random.default_rng(seed)
    space, found = policy.space, []
    for _ in range(num_windows):
        factor = float(np.exp(0.2 * rng.standard_normal()))
        context = replace(CONTEXT, batch_size=CONTEXT.batch_size * factor)
        setting = policy.decide(context, int(rng.integers(2)))
        check(setting, space)
        found.append(setting.tolist())
        window = fate(toy_window(space, setting.copy(), context, rng), rng)
        setting[:] = 0  # a host may do with it what it wants
        if window is not None:
            kept = window.setting.copy()
            policy.learn(window)
            np.testing.assert_array_equal(window.setting, kept)
        assert isinstance(policy.searching, bool)
        assert all(isinstance(value, float) for value in policy.figures.values())
    return found


@cache
def played(name: str) -> list[list[int]]:
    return play(make(name))


@NAMES
def test_decisions_fit_and_are_the_same_under_the_same_seed(name: str) -> None:
    assert play(make(name)) == played(name)


@NAMES
@pytest.mark.parametrize("fate", [lost, unmeasured, unlike, never])
def test_windows_that_are_lost_odd_or_of_another_setting_do_no_harm(name: str, fate: Fate) -> None:
    play(make(name), fate=fate)


@NAMES
@pytest.mark.parametrize("num_windows", [0, 3, 25])
def test_learned_state_goes_on_where_it_was_left(name: str, num_windows: int) -> None:
    policy = make(name)
    play(policy, 1, num_windows)
    state = policy.state_dict()
    assert all(isinstance(value, np.ndarray) for value in state.values())
    again = make(name)
    again.load_state_dict({key: value.copy() for key, value in state.items()})
    again.rng.bit_generator.state = policy.rng.bit_generator.state
    assert play(again, 2, 10) == play(policy, 2, 10)
    for key, value in again.state_dict().items():
        np.testing.assert_array_equal(value, policy.state_dict()[key])


@NAMES
def test_state_does_not_grow_with_history(name: str) -> None:
    policy = make(name)
    play(policy, 1, 100)
    assert sum(value.size for value in policy.state_dict().values()) < 20_000


@NAMES
def test_the_state_of_another_space_is_refused_in_one_line(name: str) -> None:
    other = Space((Knob("graphics_clock_mhz", (500.0, 800.0), "clock", default=1, safe=1),))
    with pytest.raises(ValueError, match="expected throttle state of") as error:
        make(name, other).load_state_dict(make(name).state_dict())
    assert "\n" not in str(error.value)


@NAMES
@pytest.mark.parametrize(
    "space",
    [
        Space((Knob("graphics_clock_mhz", (900.0,), "clock", default=0, safe=0),)),
        Space((Knob("attention", ("eager", "sdpa", "flash"), "category", default=0, safe=1),)),
        Space((Knob("num_threads", (1.0, 2.0, 4.0), "count", default=2, safe=2),)),
        Space((Knob("power_limit_w", (100.0, 200.0), "limit", default=1, safe=1),)),
        Space(()),
    ],
    ids=["one setting", "category", "count", "limit", "nothing"],
)
def test_any_space_will_do(name: str, space: Space) -> None:
    play(make(name, space), num_windows=20)


@NAMES
@pytest.mark.parametrize(
    "goal",
    [
        Goal(),
        Goal(latency_slo_s=1e-9),
        Goal("tokens_per_second", power_cap_w=120.0),
        Goal("tokens_per_second", latency_slo_s=SLO, power_cap_w=1e-3),
    ],
    ids=["no promise", "nothing keeps the SLO", "cap", "nothing keeps the cap"],
)
def test_any_goal_will_do(name: str, goal: Goal) -> None:
    play(make(name, goal=goal), num_windows=20)


@NAMES
def test_without_load_and_with_huge_load_decisions_are_settings(name: str) -> None:
    policy = make(name)
    full = Context(float("inf"), 6.0, 0.5)
    for context in (Context(0.0, 0.0), Context(1e9, 1e6, 1.0), CONTEXT, full, full):
        setting = policy.decide(context)
        check(setting, SPACE)
        policy.learn(toy_window(SPACE, setting, context, np.random.default_rng(0)))
    check(policy.decide(Context(0.0, 0.0)), SPACE)
