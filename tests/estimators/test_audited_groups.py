"""Groups played anew under thresholds, next to a walk through every group by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm

from flyball.estimators import audited_groups
from flyball.estimators.audited_groups import AuditedGroups
from flyball.estimators.partial_reward import PartialReward

Floats = np.ndarray
CHECKS = np.array([8, 16, 32])
LENGTH = 64


def some(num_groups: int, num_members: int, seed: int) -> tuple[Floats, Floats, Floats]:
    """Scores, finals and lengths; some texts end early, then their final stands."""
    rng = np.random.default_rng(seed)
    path = rng.normal(size=(num_groups, num_members, LENGTH)).cumsum(axis=2)
    tokens = rng.integers(6, LENGTH + 1, (num_groups, num_members)).astype(np.int32)
    final = np.take_along_axis(path, tokens[:, :, None] - 1, axis=2)[:, :, 0]
    at = np.minimum(CHECKS, tokens[:, :, None]) - 1
    return np.take_along_axis(path, at, axis=2), final, tokens


def ones(final: Floats) -> Floats:
    """One winner in each group."""
    return np.ones(len(final), np.int32)


def audited(
    score: Floats, final: Floats, tokens: Floats, tie: float = 0.0
) -> tuple[AuditedGroups, PartialReward]:
    reward = PartialReward(len(CHECKS))
    reward.learn(*some(100, 8, 99)[:2])
    groups = AuditedGroups(reward, CHECKS, tie)
    groups.add(score, final, tokens, ones(final))
    groups.fit()
    return groups, reward


def surprise(
    reward: PartialReward, score: Floats, alive: Floats, i: int, c: int, tie: float
) -> float:
    """Of one member of a group (N, C) if it still overtook all who go on and are ahead."""
    slope, spread = reward.slope[c], np.sqrt(2.0 * reward.variance[c])
    total = 0.0
    for j in np.flatnonzero(alive):
        gap = slope * (score[j, c] - score[i, c])
        if gap > 0.0 or (gap == 0.0 and j < i):
            total -= norm.logcdf(-(gap + tie) / spread)
    return total


def by_hand(
    groups: AuditedGroups, reward: PartialReward, score: Floats, tokens: Floats,
    threshold: float, tie: float,
) -> Floats:  # fmt: skip
    """Tokens (N,) after which each member of a group (N, C) is stopped; infinite if never."""
    end = np.full(len(score), np.inf)
    for c, check in enumerate(CHECKS):
        alive = np.isinf(end)
        for i in np.flatnonzero(alive & (tokens > check)):
            if surprise(reward, score, alive, i, c, tie) > threshold * groups.unit[c]:
                end[i] = check
    return end


@pytest.mark.parametrize("tie", [0.0, 3.0])
def test_a_group_is_lost_once_nobody_is_left_who_ends_near_its_best(tie: float) -> None:
    score, final, tokens = some(40, 6, 0)
    final[np.random.default_rng(1).random(final.shape) < 0.1] = np.nan
    groups, reward = audited(score, final, tokens, tie)
    num_lost = 0
    for threshold in (0.1, 0.5, 1.0, 3.0):
        found = groups.loses(score, final, tokens, ones(final), threshold)
        for row in range(40):
            end = by_hand(groups, reward, score[row], tokens[row], threshold, tie)
            best = final[row] >= np.nanmax(final[row]) - tie
            assert found[row] == (not (best & np.isinf(end)).any())
        num_lost += int(found.sum())
    assert num_lost > 10


def test_the_threshold_is_the_least_one_within_the_risk_and_all_above_it_too() -> None:
    score, final, tokens = some(120, 8, 3)
    groups, reward = audited(score, final, tokens)
    for risk in (0.05, 0.1, 0.3):
        threshold, saved = groups.threshold(risk)
        lost = groups.loses(score, final, tokens, ones(final), threshold)
        assert (lost.sum() + 1) / 121 <= risk
        assert np.isfinite(threshold)
        ends = [
            by_hand(groups, reward, score[row], tokens[row], threshold, 0.0) for row in range(120)
        ]
        given = np.minimum(np.array(ends), tokens)
        assert saved == pytest.approx(1.0 - given.sum() / tokens.sum())
    assert groups.threshold(0.3)[0] < groups.threshold(0.05)[0]
    assert groups.threshold(1 / 122) == (np.inf, 0.0)


def test_units_follow_what_winners_show() -> None:
    score, final, tokens = some(100, 8, 4)
    groups, reward = audited(score, final, tokens)
    everybody = np.ones(8, np.bool_)
    shown = [
        [surprise(reward, score[row], everybody, best, c, 0.0) for c in range(len(CHECKS))]
        for row, best in enumerate(final.argmax(axis=1).tolist())
    ]
    usual = np.quantile(shown, 0.9, axis=0)
    np.testing.assert_allclose(groups.unit, usual + usual.mean())


def test_only_the_latest_groups_are_kept() -> None:
    groups, _ = audited(*some(10, 4, 5))
    assert groups.num_groups == 10
    tokens = some(10, 4, 5)[2]
    left = [(tokens[tokens > check] - check).mean() for check in CHECKS]
    np.testing.assert_allclose(groups.tokens_left, left)
    for seed in range(3):
        score, final, tokens = some(100, 9, seed)  # wider than before
        groups.add(score, final, tokens, ones(final))
    groups.fit()
    assert groups.num_groups == 256
    groups.keep_latest(12)
    assert groups.num_groups == 12
    assert groups.threshold(0.05) == (np.inf, 0.0)


def test_nothing_is_known_of_nothing() -> None:
    groups = AuditedGroups(PartialReward(3), CHECKS, 0.0)
    assert groups.num_groups == 0
    assert groups.threshold(0.5) == (np.inf, 0.0)


def test_groups_without_any_final_score_have_no_winner_to_lose() -> None:
    score, final, tokens = some(12, 4, 6)
    final[:3] = np.nan
    groups, _ = audited(score, final, tokens)
    assert not groups.loses(score, final, tokens, ones(final), 1e-6)[:3].any()


def twins_that_part(num_groups: int, parting: float) -> tuple[Floats, Floats, Floats, Floats]:
    """Groups of 8 that say the same at all checkpoints; half of them part in some."""
    rng = np.random.default_rng(0)
    part = rng.random(num_groups) < parting
    final = np.where(part[:, None] & (np.arange(8) % 2 == 0), -5.0, 0.0)
    keep = np.full(num_groups, 4, np.int32)
    return np.zeros((num_groups, 8, len(CHECKS))), final, np.full(final.shape, LENGTH), keep


def test_that_twins_fail_together_is_measured() -> None:
    groups = AuditedGroups(PartialReward(len(CHECKS)), CHECKS, 0.1)
    assert not groups.alone.any()
    groups.add(*twins_that_part(400, 0.05))
    chance = np.exp(-groups.alone)
    assert (chance[:, 0] == 1.0).all()
    # Of 7 others 4 end below, so 4/7 of those in doubt are above one, and 1/35 above four of them;
    # half of the members are.
    hard = 0.5 * 0.05 * np.array([4 / 7, 12 / 42, 24 / 210, 24 / 840])
    np.testing.assert_allclose(chance[:, 1:5], np.tile(hard, (len(CHECKS), 1)), rtol=0.4)
    assert chance[0, 2] > 10 * chance[0, 1] ** 2
    assert (np.diff(chance, axis=1) <= 0.0).all()
    groups.keep_latest(400)
    assert not groups.alone.any()


def test_groups_whose_several_winners_all_end_alike_have_nothing_to_lose() -> None:
    groups = AuditedGroups(PartialReward(len(CHECKS)), CHECKS, 0.1)
    score, final, tokens, keep = twins_that_part(400, 0.05)
    groups.add(score, final, tokens, keep)
    assert groups.num_groups == min((final.min(axis=1) < 0.0).sum(), 256)


def test_of_wide_groups_no_more_are_kept_than_are_needed() -> None:
    reward = PartialReward(len(CHECKS))
    groups = AuditedGroups(reward, CHECKS, 0.0, least=5)
    rng = np.random.default_rng(0)
    for _ in range(4):
        final = rng.normal(size=(3, 600))
        score = final[:, :, None] + rng.normal(size=(3, 600, len(CHECKS)))
        reward.learn(score, final)
        groups.add(score, final, np.full(final.shape, LENGTH), ones(final))
    groups.fit()
    assert groups.num_groups == 5
    assert groups.threshold(0.5)[0] < np.inf


def test_parts_of_the_groups_show_what_all_of_them_do(monkeypatch: pytest.MonkeyPatch) -> None:
    score, final, tokens = some(60, 6, 2)
    whole, _ = audited(score, final, tokens)
    monkeypatch.setattr(audited_groups, "_CELLS_AT_ONCE", 7 * 36)
    parts, _ = audited(score, final, tokens)
    np.testing.assert_array_equal(parts.unit, whole.unit)
    assert parts.threshold(0.1) == pytest.approx(whole.threshold(0.1))
