"""constrained_bo finds the toy's best setting, safely, and follows its load."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from benchmarks.throttle_surfaces import Surface, draw_surface
from throttle_toy import CONTEXT, SLO, SPACE, toy_truth, toy_window

from flyball.integrations.hardware.device_load import FLUCTUATION
from flyball.integrations.hardware.device_settings import settings_of
from flyball.policies.throttle.base import Context, Goal, Window
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


@pytest.mark.parametrize("seed", [41, 44])
def test_a_queue_that_never_empties_is_no_load_and_saves_all_the_same(seed: int) -> None:
    surface = draw_surface(seed)
    space, acceptance = surface.space, surface.context.acceptance
    latency, energy, rate, rows = saturated(surface)
    default = int(space.index(space.default))
    goal = Goal(latency_slo_s=1.5 * float(latency[default]))
    policy = ConstrainedBO(ConstrainedBOSettings(), space, goal, np.random.default_rng(0))
    rng, chosen, context = np.random.default_rng(seed), [], Context(np.inf, 1.0, acceptance)
    for _ in range(12):
        row = int(space.index(policy.decide(context)))
        chosen.append(row)
        context = Context(np.inf, float(rows[row]), acceptance)  # as many as the setting lets in
        noise = np.exp(0.015 * rng.standard_normal(2))
        tokens = int(20.0 * rate[row])
        window = Window(
            space.grid[row], context, 20.0, tokens, tokens * float(energy[row] * noise[0]),
            float(latency[row] * noise[1]),
        )  # fmt: skip
        policy.learn(window)
    keeps = latency <= goal.latency_slo_s
    assert keeps[chosen].mean() > 0.9
    assert energy[chosen[-1]] <= 1.05 * energy[keeps].min()
    assert len(policy.state_dict()["loads"]) == len(set(chosen))
    assert np.ptp(policy.state_dict()["loads"], axis=0).max() == 0.0


def saturated(surface: Surface) -> tuple[Any, Any, Any, Any]:
    """Seconds, joules, tokens a second and requests at a time of all settings, always busy."""
    space, spec = surface.space, surface.model.spec
    names = [knob.name for knob in space.knobs]
    limit = space.column(names.index("batch_size"), space.grid)
    latency, energy, rate, rows = np.zeros((4, len(limit)))
    for size in np.unique(limit):
        some = limit == size
        # As many in flight as are let in; hardly any arrive, so that nobody waits.
        context = Context(1e-3, float(size), surface.context.acceptance)
        found = surface.model.steady(settings_of(spec, space, space.grid[some], size), context)
        # Nor do requests come by chance, as those of users do.
        crowd = 1.0 if spec.gather_s > 0 else (size + FLUCTUATION * np.sqrt(size)) / found.running
        latency[some], rate[some], rows[some] = found.latency_s / crowd, found.rate, found.running
        energy[some] = found.busy_w / found.rate
    return latency, energy, rate, rows


@pytest.mark.parametrize("seed", range(4))
def test_cpu_seconds_of_a_queue_are_tuned_by_threads_batch_and_draft(seed: int) -> None:
    rng = np.random.default_rng(seed)
    counts = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)
    space = Space(
        (
            Knob("num_threads", (1.0, 2.0), "count", 1, 1),
            Knob("num_cpus", (1.0, 2.0), "count", 1, 1),
            Knob("batch_size", counts, "count", 6, 0),
            Knob("draft_len", (0.0, 1.0, 2.0, 4.0, 8.0), "count", 4, 0),
        )
    )
    # As measured for a small model in transformers: the rounds of Python take the most time.
    threads, cpus, batch, draft = (space.column(j, space.grid) for j in range(4))
    tokens = (1.0 - 0.7 ** (draft + 1.0)) / 0.3
    round_s = 1e-3 * (4.0 + 0.5 * draft + (0.5 + 0.05 * draft) * batch / threads**0.4)
    round_s *= np.where(threads > cpus, 3.0, 1.0)
    latency_s, cpu_s = 1.5 * round_s / tokens, np.minimum(threads, cpus) * round_s / batch / tokens
    slo_s, seen = 8e-3, list[int]()
    policy = ConstrainedBO(ConstrainedBOSettings(), space, Goal(latency_slo_s=slo_s), rng)
    setting, context = space.default, Context(np.inf, 1.0, 0.7)
    while len(seen) < 30 and (policy.searching or not seen):
        row = int(space.index(setting))
        seen.append(row)
        num_tokens = int(1.5 * batch[row] * tokens[row] / round_s[row])
        noise = np.exp(0.05 * rng.normal(size=2))
        energy_j, shown_s = np.array([cpu_s[row] * num_tokens, latency_s[row]]) * noise
        policy.learn(Window(setting, context, 1.5, num_tokens, energy_j, shown_s, busy=0.95))
        setting = policy.decide(context)
    last = int(space.index(setting))
    assert latency_s[last] <= slo_s
    assert cpu_s[last] <= 1.25 * cpu_s[latency_s <= slo_s].min()
    assert (latency_s[seen] > slo_s).sum() <= 6
