"""constrained_bo finds the toy's best setting, safely, and follows its load."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from throttle_toy import CONTEXT, SLO, SPACE, toy_truth, toy_window

from flyball.policies.throttle.base import Context, Goal
from flyball.policies.throttle.constrained_bo import ConstrainedBO, ConstrainedBOSettings
from flyball.policies.throttle.space import Knob, Space


def make(space: Space = SPACE) -> ConstrainedBO:
    goal = Goal(latency_slo_s=SLO)
    return ConstrainedBO(ConstrainedBOSettings(), space, goal, np.random.default_rng(0))


def truth(space: Space, context: Context) -> tuple[Any, Any]:
    """Joules a token and seconds of all settings, as windows show them."""
    found = [toy_truth(space, setting, context) for setting in space.grid]
    watts, seconds = np.array(found).T
    return watts * seconds / context.batch_size, seconds


def run(policy: ConstrainedBO, context: Context, num_windows: int, seed: int = 0) -> list[int]:
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(num_windows):
        setting = policy.decide(context)
        rows.append(int(policy.space.index(setting)))
        policy.learn(toy_window(policy.space, setting, context, rng))
    return rows


@pytest.mark.parametrize("seed", range(3))
def test_it_starts_safe_and_comes_near_the_best_without_breaking_the_slo(seed: int) -> None:
    energy, seconds = truth(SPACE, CONTEXT)
    rows = run(make(), CONTEXT, 25, seed)
    assert rows[0] == SPACE.index(SPACE.safe)
    best = energy[seconds <= SLO].min()
    assert energy[rows[-1]] <= 1.10 * best  # the toy's power knows no load, unlike physics
    assert energy[rows[-1]] < 0.8 * energy[SPACE.index(SPACE.default)]
    assert (seconds[rows] > SLO).mean() <= 0.1


def test_it_stops_searching() -> None:
    policy = make()
    run(policy, CONTEXT, 60)
    policy.decide(CONTEXT)
    assert not policy.searching


def test_a_queue_brings_the_safe_setting_back() -> None:
    policy = make()
    run(policy, CONTEXT, 10)
    setting = policy.decide(CONTEXT, num_waiting=100)
    np.testing.assert_array_equal(setting, SPACE.safe)


def test_what_was_learned_under_one_load_serves_another() -> None:
    policy = make()
    run(policy, CONTEXT, 20)
    other = replace(CONTEXT, batch_size=6.0, tokens_per_s=300.0)
    energy, seconds = truth(SPACE, other)
    row = run(policy, other, 1)[0]
    assert seconds[row] <= SLO
    assert energy[row] < 0.85 * energy[SPACE.index(SPACE.safe)]


def test_knobs_that_physics_does_not_know_are_learned() -> None:
    space = Space((*SPACE.knobs[:1], Knob("num_threads", (1.0, 2.0, 4.0, 8.0), "count", 3, 3)))
    rows = run(make(space), CONTEXT, 15)
    assert len(set(rows)) > 2


def test_an_endless_queue_is_a_load() -> None:
    setting = make()
    endless = replace(CONTEXT, tokens_per_s=float("inf"))
    assert len(run(setting, endless, 12)) == 12
