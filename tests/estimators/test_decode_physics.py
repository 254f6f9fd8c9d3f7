"""Physics keeps its own laws, and its constants are found again."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from flyball.estimators.decode_asked import NAMES, OUTPUTS, PRIOR, TAIL, Asked
from flyball.estimators.decode_physics import predict, slopes
from flyball.estimators.physical_fit import PhysicalFit

MEAN = np.array([mean for mean, _ in PRIOR.values()])
DEVIATION = np.array([deviation for _, deviation in PRIOR.values()])


def some(num: int, seed: int = 0, **changed: float) -> Asked:
    rng = np.random.default_rng(seed)
    one = np.ones(num)
    found = Asked(
        core=rng.uniform(0.3, 1.0, num),
        threads=one,
        contention=one,
        memory=rng.uniform(0.3, 1.0, num),
        cpu=rng.uniform(0.3, 1.0, num),
        has_cpu=one,
        power_limit_w=np.inf * one,
        batch_limit=16.0 * one,
        draft_len=rng.integers(0, 5, num).astype(np.float64),
        tokens_per_s=20.0 * one,
        arrived_per_s=20.0 * one,
        in_flight=4.0 * one,
        acceptance=0.7 * one,
        level=TAIL * one,
        gathers=0.0 * one,
        saturated=0.0 * one,
    )
    return replace(found, **{name: value * one for name, value in changed.items()})


@pytest.mark.parametrize("gathers", [0.0, 1.0])
def test_latency_rises_as_any_clock_falls_and_at_most_inversely(gathers: float) -> None:
    asked = some(200, gathers=gathers, tokens_per_s=1.0)
    row = OUTPUTS.index("latency")
    at = predict(MEAN, asked, OUTPUTS)[row]
    slower = replace(asked, core=0.8 * asked.core, memory=0.8 * asked.memory, cpu=0.8 * asked.cpu)
    rise = predict(MEAN, slower, OUTPUTS)[row] - at
    assert (rise > 0.0).all()
    assert (rise <= np.log(1.0 / 0.8) + 0.02).all()  # queues add a little


def test_fewer_threads_take_longer_but_at_most_inversely_and_cost_less() -> None:
    asked = some(200, tokens_per_s=1e12, saturated=1.0, has_cpu=0.0)
    half = replace(asked, threads=0.5 * asked.threads)
    rows = [OUTPUTS.index(name) for name in ("latency", "energy")]
    slower, dearer = (predict(MEAN, half, OUTPUTS) - predict(MEAN, asked, OUTPUTS))[rows]
    assert (slower > 0.0).all()
    assert (slower < np.log(2.0)).all()
    assert dearer.mean() < -0.05
    crowded = replace(half, contention=2.0 * asked.contention)
    assert (predict(MEAN, crowded, OUTPUTS) > predict(MEAN, half, OUTPUTS))[rows].all()


def test_energy_of_a_busy_machine_is_u_shaped_in_the_clock() -> None:
    asked = some(60, draft_len=0.0, memory=1.0, cpu=1.0, arrived_per_s=1e6)
    asked = replace(asked, core=np.linspace(0.1, 1.0, 60))
    least = int(predict(MEAN, asked, ("energy",))[0].argmin())
    assert 0 < least < 59


@pytest.mark.parametrize("limit", [np.inf, 60.0])
def test_slopes_are_those_of_predictions(limit: float) -> None:
    asked = some(30, power_limit_w=limit)
    chosen = np.arange(len(NAMES))
    at, found = slopes(MEAN, asked, chosen, OUTPUTS)
    np.testing.assert_allclose(at, predict(MEAN, asked, OUTPUTS), atol=1e-9)
    if np.isinf(limit):  # the limited clock itself is found by bisection, to a hundredth
        for k in range(0, len(NAMES), 5):
            moved = MEAN + 1e-3 * (np.arange(len(NAMES)) == k)
            expected = (predict(moved, asked, OUTPUTS) - at) / 1e-3
            np.testing.assert_allclose(found[:, :, k], expected, atol=0.02)


def test_a_machine_whose_queue_is_always_full_works_all_the_time_and_nobody_waits() -> None:
    asked = some(50, saturated=1.0, tokens_per_s=1e12, arrived_per_s=1e12)
    energy, latency, pace, power, load, work = predict(MEAN, asked, OUTPUTS)
    np.testing.assert_allclose(energy, power + pace)
    np.testing.assert_allclose(work, pace)
    assert (np.exp(load) < 0.5).all()
    alone = replace(
        asked, saturated=0.0 * load, tokens_per_s=1e-9 + 0.0 * load, gathers=1.0 + 0.0 * load
    )
    full = predict(MEAN, replace(alone, in_flight=asked.batch_limit), OUTPUTS)
    np.testing.assert_allclose(latency, full[1], atol=1e-6)
    np.testing.assert_allclose(pace, full[2], atol=1e-6)


def test_a_fit_predicts_what_it_has_not_seen() -> None:
    rng = np.random.default_rng(1)
    truth = MEAN + 0.7 * DEVIATION * rng.standard_normal(len(MEAN))
    outputs = ("energy", "latency")
    known, new = some(25, 1, tokens_per_s=1.0), some(200, 2, tokens_per_s=1.0)
    fit = PhysicalFit(known, np.zeros(0), outputs)
    shown = predict(truth, known, outputs) + 0.005 * rng.standard_normal((2, 25))
    fit.fit(known, np.zeros((25, 0)), shown, np.full((2, 25), 0.005**2))
    off = fit.predict(new, np.zeros((200, 0))) - predict(truth, new, outputs)
    assert np.abs(off).mean() < 0.02
