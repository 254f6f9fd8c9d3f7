from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from flyball.controller.off_policy import Logged, doubly_robust, ips, snips

SMALL = Logged(
    request=np.array([0, 0, 1, 2]),
    step=np.arange(4),
    reward=np.array([1.0, 2.0, 4.0, 3.0]),
    propensity=np.array([0.5, 0.25, 0.5, 1.0]),
    chance=np.array([1.0, 0.0, 1.0, 0.5]),
    modelled=np.array([1.5, 2.0, 3.0, 3.0]),
    modelled_policy=np.array([1.5, 2.5, 3.0, 2.5]),
)


def test_values_are_those_of_the_definitions() -> None:
    weight = [2.0, 0.0, 2.0, 0.5]
    assert SMALL.weight.tolist() == weight
    assert ips(SMALL).value == pytest.approx((2.0 + 8.0 + 1.5) / 4)
    assert snips(SMALL).value == pytest.approx((2.0 + 8.0 + 1.5) / 4.5)
    direct = (1.5 + 2.5 + 3.0 + 2.5) / 4
    assert doubly_robust(SMALL).value == pytest.approx(direct + (-1.0 + 2.0 + 0.0) / 4)
    assert SMALL.effective_draws == pytest.approx(4.5**2 / 8.25)


def test_the_policy_that_logged_is_its_own_mean() -> None:
    rng = np.random.default_rng(0)
    reward = rng.random(50)
    ones = np.ones(50)
    logged = Logged(np.arange(50), np.arange(50), reward, ones, ones, 0.5 * ones, 0.5 * ones)
    for estimate in (ips(logged), snips(logged), doubly_robust(logged)):
        assert estimate.value == pytest.approx(reward.mean())
        assert estimate.low < reward.mean() < estimate.high
    assert logged.effective_draws == pytest.approx(50.0)


def test_a_single_request_tells_nothing_of_others() -> None:
    alone = replace(SMALL, request=np.zeros(4, np.int64))
    assert (ips(alone).low, ips(alone).high) == (-np.inf, np.inf)


ARMS = np.array([0, 2, 4, 8])


def draw_log(rng: np.random.Generator, arm: int, alone: bool) -> Logged:
    """Requests of different acceptance, lengths drawn at random, and one length in question.

    Drawn for every round where requests run alone, else for all requests of a step.
    """
    num_requests = 60
    acceptance = rng.beta(4.0, 2.0, num_requests)
    request = np.repeat(np.arange(num_requests), rng.integers(20, 60, num_requests))
    share = rng.dirichlet(np.full(len(ARMS), 3.0)) * 0.8 + 0.05
    step = np.concatenate([np.arange(count) for count in np.bincount(request)])
    drawn = rng.choice(len(ARMS), len(request), p=share / share.sum())
    chosen = drawn if alone else drawn[step]
    own = acceptance[request]
    run = rng.geometric(1.0 - own) - 1
    reward = np.minimum(run, ARMS[chosen]) + 1.0
    # A model that knows the mean acceptance alone, and that badly.
    guess = 0.9 * acceptance.mean()
    modelled = (1.0 - guess ** (ARMS + 1)) / (1.0 - guess)
    return Logged(
        request,
        np.arange(len(request)) if alone else step,
        reward,
        (share / share.sum())[chosen],
        (chosen == arm).astype(np.float64),
        modelled[chosen],
        np.full(len(request), modelled[arm]),
    )


@pytest.mark.parametrize("alone", [True, False])
@pytest.mark.parametrize("arm", [0, 1, 2, 3])
def test_intervals_cover_the_truth_and_the_model_helps(arm: int, alone: bool) -> None:
    rng = np.random.default_rng([5, arm])
    of_traffic = rng.beta(4.0, 2.0, 1_000_000)
    truth = float(((1.0 - of_traffic ** (ARMS[arm] + 1)) / (1.0 - of_traffic)).mean())
    covered = {name: 0 for name in ("ips", "snips", "dr")}
    error = {name: 0.0 for name in covered}
    for _ in range(200):
        logged = draw_log(rng, arm, alone)
        found = {"ips": ips(logged), "snips": snips(logged), "dr": doubly_robust(logged)}
        for name, estimate in found.items():
            covered[name] += estimate.low <= truth <= estimate.high
            error[name] += (estimate.value - truth) ** 2
    for name, count in covered.items():
        # Without a draft a round brings one token; only bare weighting can be wrong about it.
        assert 180 <= count <= 198 or (arm == 0 and name != "ips"), (name, count)
    assert error["dr"] <= error["ips"]
