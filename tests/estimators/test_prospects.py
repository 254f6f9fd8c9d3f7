"""Chances of a good end, calibrated, next to scikit-learn and to plain loops."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from flyball.estimators.prospects import Prospects, platt

Floats = np.ndarray
CHECKS = np.array([10, 20, 40])


def test_the_fit_is_scikit_learn_s_where_data_are_many() -> None:
    rng = np.random.default_rng(0)
    score = 50.0 + 3.0 * rng.normal(size=(4000, 2))
    good = rng.random(4000) < expit(score[:, 0] - 50.5)
    score[rng.random(score.shape) < 0.2] = np.nan
    intercept, slope = platt(score, good)
    known = ~np.isnan(score[:, 0])
    oracle = LogisticRegression(C=1e9, tol=1e-8).fit(score[known, :1], good[known])
    assert slope[0] == pytest.approx(oracle.coef_[0, 0], rel=0.02)
    assert intercept[0] == pytest.approx(oracle.intercept_[0], rel=0.02)


def test_probabilities_are_calibrated_where_groups_differ() -> None:
    rng = np.random.default_rng(1)
    prospects = Prospects(CHECKS, worth=1.0)
    path = rng.normal(size=(1500, 1, 64)).cumsum(axis=2) / 4.0 + rng.normal(size=(1500, 1, 1))
    score, final = path[:, :, CHECKS - 1], path[:, :, -1]
    prospects.add(score[:1000], final[:1000], np.full((1000, 1), 64, np.int32))
    prospects.fit()
    for check in range(3):
        chance = np.exp(-prospects.surprise(score[1000:, 0, check], np.full(500, check)))
        worthy = final[1000:, 0] >= 1.0
        for part in np.array_split(np.argsort(chance), 4):
            assert chance[part].mean() == pytest.approx(worthy[part].mean(), abs=0.1)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_scores_that_separate_all_or_mislead_leave_sound_chances(sign: float) -> None:
    score = sign * np.linspace(-1.0, 1.0, 40)[:, None]
    intercept, slope = platt(score, np.arange(40) >= 20)
    assert np.isfinite(slope[0])
    chance = expit(intercept + slope * score[:, 0])
    if sign > 0.0:
        assert chance[0] < 0.1 < 0.9 < chance[-1]
    else:
        assert slope[0] == 0.0
        np.testing.assert_allclose(chance, 0.5)


@pytest.mark.parametrize("num_good", [0, 6])
def test_few_completions_tell_the_base_rate(num_good: int) -> None:
    score = np.random.default_rng(2).normal(size=(6, 1))
    intercept, slope = platt(score, np.arange(6) < num_good)
    assert slope[0] == 0.0
    assert expit(intercept[0]) == pytest.approx((num_good + 1) / 8)


def test_nothing_known_and_constant_scores_are_harmless() -> None:
    for score in (np.zeros((0, 3)), np.full((20, 3), np.nan), np.ones((20, 3))):
        intercept, slope = platt(score, np.arange(len(score)) % 2 == 0)
        assert np.isfinite(intercept).all()
        assert slope.tolist() == [0.0] * 3


def kept() -> tuple[Prospects, Floats, Floats, Floats]:
    rng = np.random.default_rng(3)
    final = rng.normal(size=(60, 3))
    score = final[:, :, None] + rng.normal(size=(60, 3, 3))
    final[rng.random(final.shape) < 0.2] = np.nan  # dropped by the host
    tokens = rng.integers(5, 80, final.shape)
    score[tokens[:, :, None] <= CHECKS] = np.nan
    prospects = Prospects(CHECKS, worth=0.5)
    prospects.add(score[:25], final[:25], tokens[:25].astype(np.int32))
    prospects.add(score[25:], final[25:], tokens[25:].astype(np.int32))
    prospects.fit()
    return prospects, score, final, tokens


def test_the_worthy_show_their_largest_surprise_and_share_their_group() -> None:
    prospects, score, final, _ = kept()
    expected = []
    for group in range(60):
        worthy = np.flatnonzero(final[group] >= 0.5)
        for member in worthy:
            shown = prospects.surprise(score[group, member], np.arange(3))
            expected.append((shown.max(), 1.0 / len(worthy)))
    surprise, share, num_groups = prospects.worthy()
    np.testing.assert_allclose(np.stack([surprise, share], axis=1), expected)
    assert num_groups == (final >= 0.5).any(axis=1).sum()
    assert share.sum() == pytest.approx(num_groups)


def test_tokens_left_are_those_of_whoever_got_so_far() -> None:
    prospects, _, final, tokens = kept()
    for c, check in enumerate(CHECKS):
        longer = tokens[(tokens > check) & ~np.isnan(final)]
        assert prospects.tokens_left()[c] == pytest.approx((longer - check).mean())


def test_memory_does_not_grow() -> None:
    prospects, rng = Prospects(CHECKS, worth=0.0), np.random.default_rng(4)
    for _ in range(30):
        prospects.add(
            rng.normal(size=(50, 4, 3)), rng.normal(size=(50, 4)), np.full((50, 4), 64, np.int32)
        )
    assert len(prospects._final) == len(prospects._score) == 2048
    assert prospects.worthy()[2] == pytest.approx(512 * 15 / 16, abs=20)
