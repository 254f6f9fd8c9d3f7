"""Scores of winners, place by place, next to a walk through every group."""

from __future__ import annotations

import numpy as np
import pytest

from flyball.estimators.audited_groups import AuditedGroups
from flyball.estimators.partial_reward import PartialReward

Floats = np.ndarray
CHECKS = np.array([8, 16, 32])
LENGTH = 64


def some(num_groups: int, num_members: int, seed: int) -> tuple[Floats, Floats]:
    rng = np.random.default_rng(seed)
    path = rng.normal(size=(num_groups, num_members, LENGTH)).cumsum(axis=2)
    return path[:, :, CHECKS - 1], path[:, :, -1]


def audited(
    score: Floats, final: Floats, keep: int = 1, tie: float = 0.0
) -> tuple[AuditedGroups, PartialReward]:
    reward = PartialReward(len(CHECKS))
    reward.learn(*some(100, 8, 99))
    groups = AuditedGroups(reward, CHECKS, tie)
    add(groups, score, final, keep)
    groups.fit()
    return groups, reward


def add(groups: AuditedGroups, score: Floats, final: Floats, keep: int = 1) -> None:
    tokens = np.full(final.shape, LENGTH, np.int32)
    groups.add(score, final, tokens, np.full(len(final), keep, np.int32))


def surprises(
    groups: AuditedGroups, reward: PartialReward, score: Floats, keep: int, tie: float
) -> Floats:
    """The largest (N,) of each member of one group (N, C) over checkpoints, in units."""
    found = np.zeros(len(score))
    for c in range(len(CHECKS)):
        for i in np.flatnonzero(~np.isnan(score[:, c])):
            here = reward.improbability(
                score[i : i + 1, c], score[None, :, c], np.array([c]), np.array([keep]), tie
            )
            found[i] = max(found[i], here[0] / groups.unit[c])
    return found


def lost_places(found: Floats, final: Floats, threshold: float, keep: int, tie: float) -> int:
    """Winning places that nobody is left to take, who is stopped above a threshold."""
    best = np.sort(final[~np.isnan(final)])[::-1][:keep]
    left = np.where(found > threshold, np.nan, final)
    return sum(int((left >= level - tie).sum()) < place + 1 for place, level in enumerate(best))


@pytest.mark.parametrize("tie", [0.0, 3.0])
@pytest.mark.parametrize("keep", [1, 3, 9])
def test_a_place_is_lost_above_its_score_and_not_below(keep: int, tie: float) -> None:
    score, final = some(40, 6, 0)
    rng = np.random.default_rng(1)
    score[rng.random(score.shape) < 0.1] = np.nan
    final[rng.random(final.shape) < 0.1] = np.nan
    groups, reward = audited(score, final, keep, tie)
    places = groups.places(score, final, np.full(40, keep, np.int32))
    for row in range(40):
        found = surprises(groups, reward, score[row], keep, tie)
        scores = places[row][~np.isnan(places[row])]
        for threshold in (0.0, 0.3, 0.7, 1.0, 1.5, 3.0):
            expected = lost_places(found, final[row], threshold, keep, tie)
            assert (scores > threshold).sum() == expected


def test_winners_share_their_group_s_loss() -> None:
    groups, _ = audited(*some(30, 8, 2), keep=4)
    scores, share = groups.winners()
    assert len(scores) == 120
    np.testing.assert_allclose(share, 0.25)


def test_units_follow_what_winners_show() -> None:
    score, final = some(200, 8, 3)
    groups, reward = audited(score, final)
    shown = np.zeros((200, len(CHECKS)))
    for row, best in enumerate(final.argmax(axis=1)):
        for c in range(len(CHECKS)):
            shown[row, c] = reward.improbability(
                score[row, [best], c], score[row][None, :, c], np.array([c]), np.array([1]), 0.0
            )[0]
    usual = np.quantile(shown, 0.9, axis=0)
    np.testing.assert_allclose(groups.unit, usual + 0.1 * usual.mean())


def test_savings_are_those_of_whoever_would_be_stopped() -> None:
    score, final = some(20, 8, 4)
    groups, reward = audited(score, final)
    for threshold in (0.5, 1.0, 2.0):
        tokens = 0.0
        for row in range(20):
            for i in range(8):
                end = float(LENGTH)
                for c in reversed(range(len(CHECKS))):
                    here = reward.improbability(
                        score[row, [i], c], score[row][None, :, c], np.array([c]), np.ones(1), 0.0
                    )[0]
                    if here / groups.unit[c] > threshold:
                        end = float(CHECKS[c])
                tokens += end
        assert groups.saved(threshold) == pytest.approx(1.0 - tokens / (20 * 8 * LENGTH))
    assert groups.saved(np.inf) == 0.0


def test_only_the_latest_groups_are_kept() -> None:
    groups, _ = audited(*some(10, 4, 5))
    assert groups.num_groups == 10
    assert groups.mean_tokens == LENGTH
    for seed in range(3):
        add(groups, *some(100, 9, seed))  # wider than before
    assert groups.num_groups == 256
    latest = groups.winners()[0][-12:]
    groups.keep_latest(12)
    assert groups.num_groups == 12
    np.testing.assert_array_equal(groups.winners()[0], latest)


def test_nothing_is_known_of_nothing() -> None:
    groups = AuditedGroups(PartialReward(3), CHECKS, 0.0)
    groups.fit()
    assert groups.num_groups == 0
    assert groups.saved(1.0) == 0.0
    assert [len(values) for values in groups.winners()] == [0, 0]


def test_groups_without_any_final_score_have_no_winner() -> None:
    score, final = some(12, 4, 6)
    final[:3] = np.nan
    groups, _ = audited(score, final)
    assert len(groups.winners()[0]) == 9
