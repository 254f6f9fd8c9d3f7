"""Each policy follows the rule that its source states."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest

from flyball.controller.policy_file import load_policy
from flyball.policies.ensemble.base import EnsemblePolicy, Floats, simplex_grid

SLOT = np.array([0], np.int32)


def make(name: str, num_members: int = 2, seed: int = 0, **settings: Any) -> EnsemblePolicy:
    file = load_policy({"version": 1, "ensemble": {"policy": name, **settings}})
    policy = file.make_ensemble_policy(num_members, np.random.default_rng(seed))
    assert policy is not None
    policy.admit(SLOT)
    return policy


def weights(policy: EnsemblePolicy, sampled: bool = True) -> Floats:
    return policy.decide(SLOT, sampled)[0]


def learn(policy: EnsemblePolicy, values: Any, sampled: bool = True) -> None:
    """One round of one request, a row of values a position."""
    given = np.array(values, np.float64)
    policy.learn(SLOT, np.zeros(len(given), np.intp), given, sampled)


def test_equal_weighs_alike() -> None:
    assert weights(make("equal", 4)).tolist() == [0.25] * 4


@pytest.mark.parametrize(("num_members", "num_points"), [(1, 1), (2, 11), (3, 66), (4, 286)])
def test_the_grid_is_tabed_s(num_members: int, num_points: int) -> None:
    found = simplex_grid(num_members)
    steps = product(range(11), repeat=num_members)
    expected = np.array([vector for vector in steps if sum(vector) == 10]) / 10
    np.testing.assert_array_equal(found, expected)
    assert len(found) == num_points


@pytest.mark.parametrize("num_members", range(5, 12))
def test_grids_of_more_members_are_coarser_and_hold_every_member(num_members: int) -> None:
    found = simplex_grid(num_members)
    assert len(found) <= 330
    np.testing.assert_allclose(found.sum(axis=1), 1.0)
    assert (found.max(axis=1) == 1.0).sum() == num_members
    assert len(np.unique(found, axis=0)) == len(found)


def test_best_single_follows_the_member_that_is_best_of_late() -> None:
    policy = make("best_single")
    for _ in range(20):
        learn(policy, [[0.8, 0.6]] * 4)
    assert weights(policy).tolist() == [1.0, 0.0]
    num_positions = 0
    while weights(policy)[0] == 1.0:
        learn(policy, [[0.5, 0.6]] * 4)
        num_positions += 4
    # 0.2 e^(-t / 30) < 0.1 (1 - e^(-t / 30)) after t = 33 positions
    assert num_positions == pytest.approx(33, abs=4)


def test_best_single_of_a_new_request_is_that_of_all() -> None:
    policy = make("best_single")
    for _ in range(20):
        learn(policy, [[0.4, 0.6]] * 4)
    policy.admit(SLOT)
    assert weights(policy).tolist() == [0.0, 1.0]
    learn(policy, [[0.9, 0.1]] * 4)
    assert weights(policy).tolist() == [1.0, 0.0]  # its own text soon counts for more


def test_best_single_counts_only_where_a_member_is_present() -> None:
    policy = make("best_single")
    learn(policy, [[0.5, np.nan], [0.5, np.nan], [0.5, 0.6]])
    assert weights(policy).tolist() == [0.0, 1.0]


def plain_tabed(hits: Floats, kl: Floats, grid: Floats) -> Floats:
    """Its rule, one vector at a time, over a history (positions, G)."""
    best, chosen = (-1.0, 0.0), grid[0]
    for g, vector in enumerate(grid):
        score = (float(hits[:, g].sum()), -float(kl[:, g].sum()))
        if score > best:
            best, chosen = score, vector
    return chosen


@pytest.mark.parametrize("window", [0, 5])
@pytest.mark.parametrize("num_members", [2, 3, 4])
def test_tabed_takes_the_most_hits_and_then_the_least_kl(num_members: int, window: int) -> None:
    policy = make("tabed", num_members, window=window)
    assert weights(policy, False).tolist() == [1 / num_members] * num_members
    rng = np.random.default_rng(num_members)
    history = np.zeros((0, len(policy.grid), 2))
    for _ in range(12):
        length = int(rng.integers(0, 8))
        fresh = np.empty((length, len(policy.grid), 2))
        fresh[..., 0] = rng.random((length, len(policy.grid))) < 0.8
        fresh[..., 1] = rng.exponential(size=(length, len(policy.grid)))
        learn(policy, fresh, False)
        history = np.concatenate([history, fresh])[-window:]
        if len(history):
            expected = plain_tabed(history[..., 0], history[..., 1], policy.grid)
            np.testing.assert_array_equal(weights(policy, False), expected)


def test_tabed_breaks_ties_by_kl() -> None:
    policy = make("tabed")
    hits, kl = np.zeros(11), np.arange(11.0)
    hits[[3, 7]] = 1.0
    kl[7] = 2.5  # less than that of point 3
    learn(policy, [np.stack([hits, kl], axis=-1)], False)
    np.testing.assert_allclose(weights(policy, False), [0.7, 0.3])


@pytest.mark.parametrize(("rule", "of"), [("inverse_kl", 0), ("inverse_l1", 1)])
def test_tabed_weighs_by_inverse_distance(rule: str, of: int) -> None:
    policy = make("tabed", 3, rule=rule)
    values = np.random.default_rng(0).random((6, 3, 2))
    learn(policy, values[:4])
    learn(policy, values[4:])
    inverse = 1.0 / values[..., of].sum(axis=0)
    np.testing.assert_allclose(weights(policy), inverse / inverse.sum())


def test_tabed_trusts_a_member_that_never_differed() -> None:
    policy = make("tabed", rule="inverse_kl")
    learn(policy, [[[0.0, 0.0], [0.5, 0.3]]])
    np.testing.assert_allclose(weights(policy), [1.0, 2e-11], rtol=1e-9)


def test_tabed_gives_absent_members_the_mean_distance() -> None:
    policy = make("tabed", 3, rule="inverse_kl")
    learn(policy, [[[1.0, 0.1], [3.0, 0.1], [np.nan, np.nan]]])
    inverse = 1.0 / np.array([1.0, 3.0, 2.0])
    np.testing.assert_allclose(weights(policy), inverse / inverse.sum())


def test_tabed_shares_nothing_between_texts() -> None:
    policy = make("tabed")
    learn(policy, np.random.default_rng(0).random((5, 11, 2)), False)
    policy.admit(SLOT)
    assert weights(policy, False).tolist() == [0.5, 0.5]


def test_metasd_runs_every_member_once_and_then_the_largest_bound() -> None:
    policy = make("metasd", 3, exploration=1.0)
    means, sums, counts = np.array([0.5, 0.6, 0.3]), np.zeros(3), np.zeros(3)
    rng = np.random.default_rng(0)
    for step in range(60):
        if step < 3:
            expected = step
        else:
            bonus = np.sqrt(2.0 * np.log(step) / counts)
            assert len(np.unique(bonus)) == len(np.unique(counts))  # own n_i for every arm
            expected = int((sums / counts + bonus).argmax())
        assert weights(policy)[expected] == 1.0
        values = np.full((4, 3), np.nan)
        values[:, expected] = np.clip(means[expected] + 0.2 * rng.standard_normal(4), 0.0, 1.0)
        learn(policy, values)
        sums[expected] += values[:, expected].mean()  # a round is one reward
        counts[expected] += 1
    assert len(set(counts)) > 1
    assert counts.argmax() == 1


def test_metasd_learns_of_no_member_but_the_one_that_ran() -> None:
    told, blind = make("metasd", 3), make("metasd", 3)
    values = np.random.default_rng(0).random((40, 4, 3))
    for given in values:
        chosen = weights(told)
        assert (weights(blind) == chosen).all()
        learn(told, given)
        learn(blind, np.where(chosen > 0.0, given, np.nan))


def plain_hedge(overlaps: Floats, draft_len: int, rate: float, share: float) -> Floats:
    """Fixed-share Hedge over the expected lengths, one position and member at a time."""
    num_members = overlaps.shape[1]
    weight = np.full(num_members, 1.0 / num_members)
    for start in range(len(overlaps) - draft_len + 1):
        for j in range(num_members):
            gammas = [*overlaps[start : start + draft_len, j], 0.0]
            length = sum(
                (k + 1) * (1.0 - gammas[k]) * np.prod(gammas[:k]) for k in range(draft_len + 1)
            )
            weight[j] *= np.exp(-rate * (1.0 - length / (draft_len + 1)))
        weight = (1.0 - share) * weight / weight.sum() + share / num_members
    return weight


def drawn(policy: EnsemblePolicy, num_draws: int = 20_000) -> Floats:
    """How often each member is drawn for as many requests of the same history."""
    slots = np.zeros(num_draws, np.int32)
    return policy.decide(slots, True).mean(axis=0)


@pytest.mark.parametrize("draft_len", [1, 4])
def test_hedge_draws_by_expected_length(draft_len: int) -> None:
    policy = make("hedge", 3, draft_len=draft_len)
    overlaps = np.random.default_rng(0).random((21, 3)) * [0.9, 1.0, 0.8]
    for values in np.split(overlaps, [1, 1, 3, 8, 15]):
        learn(policy, values)
    # The rounds are steps of several positions, between which alone weight is shared anew.
    expected = plain_hedge(overlaps, draft_len, rate=3.0, share=0.002)
    found = drawn(policy)
    spread = np.sqrt(expected * (1.0 - expected) / 20_000)
    assert (np.abs(found - expected) < 5.0 * spread + 0.01).all()


@pytest.mark.parametrize("rule", ["fixed_share", "normal_hedge"])
def test_hedge_recovers_after_a_switch(rule: str) -> None:
    policy, rng = make("hedge", 3, rule=rule), np.random.default_rng(0)
    means = np.array([0.9, 0.6, 0.6])
    for mean in (means, means[::-1]):
        for _ in range(15):  # 60 positions
            learn(policy, np.clip(mean + 0.1 * rng.standard_normal((4, 3)), 0.0, 1.0))
        assert drawn(policy, 1000)[mean.argmax()] > 0.9


def test_hedge_of_a_new_request_starts_from_what_all_learned() -> None:
    policy = make("hedge", 2)
    for _ in range(100):
        learn(policy, [[0.9, 0.4]] * 4)
    policy.admit(SLOT)
    assert drawn(policy, 1000)[0] > 0.8


def test_a_draft_that_is_cut_by_an_absent_member_is_unknown_to_hedge() -> None:
    policy = make("hedge", 2, draft_len=3)
    learn(policy, [[0.9, 0.9], [np.nan, 0.1], [0.9, 0.9], [0.9, 0.9]])
    np.testing.assert_allclose(drawn(policy), 0.5, atol=0.02)  # neither gained nor lost


def test_accept_ascent_multiplies_by_the_slopes() -> None:
    """At two rates, which are mixed by what the weights of each would have gained."""
    policy, rates, share = make("accept_ascent", 3), (1.0, 5.0), 0.001
    climbed, choice = np.full((2, 3), 1.0 / 3.0), np.full(2, 0.5)

    def climb(weight: Floats, gains: Floats, rate: float, share: float) -> Floats:
        moved = weight * np.exp(rate * gains)
        kept = (1.0 - share) ** 4
        result: Floats = kept * moved / moved.sum() + (1.0 - kept) / len(weight)
        return result

    for slopes in np.random.default_rng(0).random((5, 4, 3)):
        learn(policy, slopes)
        total = slopes.sum(axis=0)
        choice = climb(choice, climbed @ total, 5.0, 0.01)
        climbed = np.array(
            [climb(own, total, rate, share) for own, rate in zip(climbed, rates, strict=True)]
        )
    np.testing.assert_allclose(weights(policy), choice @ climbed, rtol=1e-12)


def test_accept_ascent_plays_the_middle_of_the_vectors_that_hit() -> None:
    policy = make("accept_ascent", 3)
    hits = (policy.grid[:, 0] >= 0.3) & (policy.grid[:, 0] <= 0.7) & (policy.grid[:, 1] >= 0.2)
    for _ in range(10):
        learn(
            policy, np.stack([hits, np.full(66, np.nan)], axis=-1)[None].repeat(4, axis=0), False
        )
    np.testing.assert_allclose(weights(policy, False), policy.grid[hits].mean(axis=0), atol=0.02)


def test_accept_ascent_finds_the_corner_where_one_member_is_best() -> None:
    policy = make("accept_ascent", 4)
    hits = policy.grid[:, 2] >= 0.8
    for _ in range(10):
        learn(policy, np.stack([hits, hits], axis=-1)[None].repeat(4, axis=0), False)
    assert weights(policy, False)[2] > 0.9


@pytest.mark.parametrize("sampled", [True, False])
def test_accept_ascent_of_a_new_request_starts_from_what_all_learned(sampled: bool) -> None:
    policy = make("accept_ascent", 2)
    for _ in range(100):
        gain = policy.grid[:, 1] if not sampled else np.array([0.2, 0.8])
        given = gain if sampled else np.stack([gain, gain], axis=-1)
        learn(policy, given[None].repeat(4, axis=0), sampled)
    policy.admit(SLOT)
    assert weights(policy, sampled)[1] > 0.75
