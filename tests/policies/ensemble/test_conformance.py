"""Every registered ensemble policy obeys the contract."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from policy_sections import ensemble_section

from flyball.policies.ensemble.base import EnsemblePolicy, Floats, Ints, Rows
from flyball.policies.registry import ENSEMBLE_POLICIES

EXAMPLES = settings(max_examples=60, deadline=None)


def make(name: str, num_members: int, seed: int = 0) -> EnsemblePolicy:
    policy = ENSEMBLE_POLICIES[name]
    settings = policy.Settings(**ensemble_section(name, num_members))
    return policy(settings, num_members, np.random.default_rng(seed))


def evidence(
    policy: EnsemblePolicy, num_rows: int, sampled: bool, rng: np.random.Generator
) -> Floats:
    """Of so many positions, some members absent; in the range that its kind has."""
    kind, m = policy.evidence(sampled), policy.num_members
    if kind == "grid":
        hits = rng.random((num_rows, len(policy.grid))) < 0.6
        kl = rng.exponential(size=hits.shape) if policy.reads_kl else np.full(hits.shape, np.nan)
        return np.stack([hits, kl], axis=-1)
    shape = (num_rows, m, 2) if kind == "divergence" else (num_rows, m)
    values = rng.random(shape)
    if kind == "overlap" and not sampled:
        values = np.round(values)
    values[rng.random((num_rows, m)) < 0.3] = np.nan
    return values


def positions(num_requests: int, rng: np.random.Generator) -> Rows:
    """Up to 5 of each request, none of some, in any order."""
    count = rng.integers(0, 6, num_requests)
    return rng.permutation(np.repeat(np.arange(num_requests), count))


def check(weights: Floats, n: int, m: int) -> None:
    assert weights.shape == (n, m)
    assert weights.dtype == np.float64
    assert (weights >= 0.0).all()
    np.testing.assert_allclose(weights.sum(axis=1), 1.0, atol=1e-12)


def play(policy: EnsemblePolicy, slots: Ints, rng: np.random.Generator, num_rounds: int) -> Floats:
    """All weights of rounds in which some requests take part, in either mode."""
    policy.admit(slots)
    found = []
    for _ in range(num_rounds):
        part = slots[rng.random(len(slots)) < 0.8]
        sampled = bool(rng.random() < 0.5)
        weights = policy.decide(part, sampled)
        check(weights, len(part), policy.num_members)
        found.append(weights.copy())
        weights[:] = np.nan  # a host may do with it what it wants
        if policy.evidence(sampled) is not None and rng.random() < 0.8:
            row = positions(len(part), rng)
            values = evidence(policy, len(row), sampled, rng)
            given = values.copy()
            policy.learn(part, row, values, sampled)
            np.testing.assert_array_equal(values, given)
    return np.concatenate(found)


@pytest.mark.parametrize("name", ENSEMBLE_POLICIES)
@given(n=st.integers(0, 5), m=st.integers(1, 5), seed=st.integers(0, 2**32 - 1))
@EXAMPLES
def test_weights_are_distributions_and_the_same_under_the_same_seed(
    name: str, n: int, m: int, seed: int
) -> None:
    slots = np.random.default_rng(seed).permutation(8)[:n].astype(np.int32)
    first, second = (
        play(make(name, m, seed), slots, np.random.default_rng(seed), 6) for _ in range(2)
    )
    np.testing.assert_array_equal(first, second)


def rounds(
    policy: EnsemblePolicy, slots: Ints, sampled: bool, rng: np.random.Generator
) -> list[Floats]:
    """The weights of five rounds of all these slots, four positions each."""
    found = []
    for _ in range(5):
        found.append(policy.decide(slots, sampled))
        if policy.evidence(sampled) is not None:
            row = np.repeat(np.arange(len(slots)), 4)
            policy.learn(slots, row, evidence(policy, len(row), sampled, rng), sampled)
    return found


@pytest.mark.parametrize("name", ENSEMBLE_POLICIES)
@pytest.mark.parametrize("sampled", [False, True])
def test_empty_and_wholly_unknown_evidence_changes_nothing(name: str, sampled: bool) -> None:
    slots = np.array([0, 1], np.int32)
    nothing = np.zeros(0, np.intp)
    after = []
    for told in (False, True):
        policy, rng = make(name, 3), np.random.default_rng(0)
        policy.admit(slots)
        rounds(policy, slots, sampled, rng)
        if told and policy.evidence(sampled) is not None:
            values = np.full_like(evidence(policy, 3, sampled, np.random.default_rng(1)), np.nan)
            policy.learn(slots, nothing, values[:0], sampled)
            policy.learn(slots[:0], nothing, values[:0], sampled)
            policy.learn(slots, np.array([0, 0, 1]), values, sampled)
        after.append(rounds(policy, slots, sampled, rng))
    np.testing.assert_array_equal(*after)


@pytest.mark.parametrize("name", ENSEMBLE_POLICIES)
@pytest.mark.parametrize("sampled", [False, True])
def test_a_new_request_owes_nothing_to_its_slot(name: str, sampled: bool) -> None:
    first, far = np.array([3], np.int32), np.array([500], np.int32)
    after = []
    for slot in (first, far):
        policy, rng = make(name, 3), np.random.default_rng(0)
        policy.admit(first)
        rounds(policy, first, sampled, rng)
        policy.admit(slot)
        after.append(rounds(policy, slot, sampled, rng))
    np.testing.assert_array_equal(*after)


@pytest.mark.parametrize("name", ENSEMBLE_POLICIES)
def test_a_slot_far_away_disturbs_nobody(name: str) -> None:
    near, far = np.array([3], np.int32), np.array([500], np.int32)
    after = []
    for others in (near[:0], far):
        policy, rng = make(name, 3), np.random.default_rng(0)
        policy.admit(near)
        rounds(policy, near, True, rng)
        policy.admit(others)
        after.append(rounds(policy, near, True, rng))
    np.testing.assert_array_equal(*after)


@pytest.mark.parametrize("name", ENSEMBLE_POLICIES)
def test_memory_does_not_grow_with_the_history(name: str) -> None:
    policy, rng = make(name, 3), np.random.default_rng(0)
    slots = np.arange(4, dtype=np.int32)
    sizes = []
    for _ in range(3):
        for sampled in (True, False) * 10:
            policy.admit(slots)
            rounds(policy, slots, sampled, rng)
        sizes.append(len(pickle.dumps(policy)))
    assert max(sizes) <= sizes[0] + 64  # whole numbers take more bytes as they grow
