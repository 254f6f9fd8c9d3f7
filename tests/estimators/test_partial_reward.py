"""Regression within groups next to numpy's, and what is foreseen of winners."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm

from flyball.estimators.partial_reward import PartialReward

Floats = np.ndarray
LENGTH = 64
CHECKS = np.array([4, 16, 36, 64])


def walks(num_groups: int, num_members: int, seed: int) -> tuple[Floats, Floats]:
    """Partial scores (G, N, C) and final ones; groups differ far more than their members."""
    rng = np.random.default_rng(seed)
    path = rng.normal(size=(num_groups, num_members, LENGTH)).cumsum(axis=2)
    path += 100.0 * rng.normal(size=(num_groups, 1, 1))
    return path[:, :, CHECKS - 1], path[:, :, -1]


def taught(score: Floats, final: Floats) -> PartialReward:
    reward = PartialReward(score.shape[2], memory=1e12)
    reward.learn(score[: len(score) // 2], final[: len(score) // 2])
    reward.learn(score[len(score) // 2 :], final[len(score) // 2 :])
    return reward


def test_slope_variance_and_correlation_are_those_of_numpy() -> None:
    score, final = walks(50, 7, 0)
    rng = np.random.default_rng(1)
    score[rng.random(score.shape) < 0.2] = np.nan
    final[rng.random(final.shape) < 0.1] = np.nan
    reward = taught(score, final)
    for c in range(len(CHECKS)):
        x, y, free = [], [], 0
        for group in range(50):
            both = ~np.isnan(score[group, :, c]) & ~np.isnan(final[group])
            x.append(score[group, both, c] - score[group, both, c].mean())
            y.append(final[group, both] - final[group, both].mean())
            free += int(both.sum()) - 1
        own, end = np.concatenate(x), np.concatenate(y)
        slope = np.linalg.lstsq(own[:, None], end, rcond=None)[0][0]
        assert reward.slope[c] == pytest.approx(slope)
        least = 1e-6 * (end**2).sum()
        left = max(((end - slope * own) ** 2).sum(), least)
        assert reward.variance[c] == pytest.approx(left / free)
        assert reward.correlation[c] == pytest.approx(np.corrcoef(own, end)[0, 1])


def test_partial_and_final_sums_correlate_as_the_root_of_their_lengths() -> None:
    reward = taught(*walks(400, 16, 2))
    np.testing.assert_allclose(reward.correlation, np.sqrt(CHECKS / LENGTH), atol=0.03)
    np.testing.assert_allclose(reward.slope, 1.0, atol=0.1)


def test_too_few_candidates_tell_nothing() -> None:
    score, final = walks(2, 4, 3)
    reward = taught(score, final)  # 6 are free of their groups' means
    assert reward.slope.tolist() == [0.0] * 4
    assert np.isinf(reward.variance).all()
    assert np.isnan(reward.correlation).all()
    nothing = reward.improbability(
        np.zeros(1), np.ones((1, 2)), np.zeros(1, int), np.ones(1, int), 0.0
    )
    assert nothing.tolist() == [0.0]


def test_a_scorer_that_is_wrong_tells_nothing() -> None:
    score, final = walks(50, 8, 4)
    reward = taught(-score, final)
    assert reward.slope.tolist() == [0.0] * 4
    assert (reward.correlation < 0.0).all()


def test_groups_of_one_and_equal_finals_are_harmless() -> None:
    reward = PartialReward(1)
    reward.learn(np.ones((30, 1, 1)), np.ones((30, 1)))
    reward.learn(np.ones((30, 4, 1)), np.ones((30, 4)))
    assert reward.slope.tolist() == [0.0]
    assert np.isnan(reward.correlation).all()
    reward.learn(np.zeros((0, 4, 1)), np.zeros((0, 4)))


def test_old_groups_fade() -> None:
    reward = PartialReward(1, memory=10.0)
    rng = np.random.default_rng(5)
    partial = rng.normal(size=(200, 8))
    reward.learn(partial[:, :, None], partial)
    for _ in range(10):
        partial = rng.normal(size=(10, 8))
        reward.learn(partial[:, :, None], 3.0 * partial)
    assert reward.slope[0] == pytest.approx(3.0, abs=0.01)


def direct(
    reward: PartialReward, own: float, rivals: Floats, check: int, keep: int, tie: float
) -> float:
    """The sum over those ahead but for the keep - 1 hardest to overtake, one at a time."""
    slope, spread = reward.slope[check], np.sqrt(2.0 * reward.variance[check])
    terms = [
        -norm.logcdf((slope * (own - rival) - tie) / spread)
        for rival in rivals
        if rival > own  # NaN never is
    ]
    return float(sum(sorted(terms)[: max(len(terms) - (keep - 1), 0)]))


@pytest.mark.parametrize("tie", [0.0, 2.0])
@pytest.mark.parametrize("keep", [1, 2, 4])
def test_improbability_is_the_stated_sum(keep: int, tie: float) -> None:
    reward, rng = taught(*walks(60, 8, 6)), np.random.default_rng(7)
    rivals = 6.0 * rng.normal(size=(20, 8))
    own = rivals[:, 0].copy()
    rivals[:, 1:][rng.random((20, 7)) < 0.3] = np.nan
    check = rng.integers(0, 3, 20)
    found = reward.improbability(own, rivals, check, np.full(20, keep), tie)
    expected = [direct(reward, own[b], rivals[b], int(check[b]), keep, tie) for b in range(20)]
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    assert (found > 0.0).any()


def test_who_leads_or_has_no_score_is_no_surprise() -> None:
    reward = taught(*walks(60, 8, 8))
    rivals = np.array([[3.0, 1.0, np.nan], [3.0, 1.0, 2.0]])
    found = reward.improbability(
        np.array([3.0, np.nan]), rivals, np.array([1, 1]), np.ones(2, int), 0.0
    )
    assert found.tolist() == [0.0, 0.0]


def test_surprise_grows_with_the_gap_the_time_and_the_rivals() -> None:
    reward = taught(*walks(200, 8, 9))

    def surprise(gap: float, check: int, num_ahead: int) -> float:
        rivals = np.array([[0.0, *[gap] * num_ahead, *[np.nan] * (3 - num_ahead)]])
        one = np.ones(1, int)
        return float(reward.improbability(np.zeros(1), rivals, np.array([check]), one, 0.0)[0])

    assert surprise(1.0, 1, 1) < surprise(4.0, 1, 1) < surprise(4.0, 2, 1) < surprise(4.0, 2, 3)
