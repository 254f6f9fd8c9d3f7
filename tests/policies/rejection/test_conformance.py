"""Every registered rejection policy obeys the contract."""

from __future__ import annotations

from dataclasses import fields
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from policy_sections import rejection_section

from flyball.policies.registry import REJECTION_POLICIES
from flyball.policies.rejection.base import Bools, Groups, Load, RejectionPolicy

EXAMPLES = settings(max_examples=60, deadline=None)
BY_SCORE = [name for name, policy in REJECTION_POLICIES.items() if policy.scores]


def make(name: str, seed: int = 0) -> RejectionPolicy:
    policy = REJECTION_POLICIES[name]
    return policy(policy.Settings(**rejection_section(name)), np.random.default_rng(seed))


def some_groups(
    num_groups: int, num_members: int, num_checks: int, rng: np.random.Generator
) -> Groups:
    """Groups in any state that contests can be in; sizes differ, so that some are absent."""
    shape = (num_groups, num_members)
    present = np.arange(num_members) < rng.integers(1, num_members + 1, num_groups)[:, None]
    begun = present & (rng.random(shape) < 0.9)
    passed = np.where(begun, rng.integers(0, num_checks + 1, shape), 0)
    finished = begun & (rng.random(shape) < 0.3)
    stopped = present & ~finished & (rng.random(shape) < 0.2)
    score = rng.random((*shape, num_checks))
    unknown = np.arange(num_checks) >= passed[:, :, None]
    score[unknown | (rng.random(score.shape) < 0.2)] = np.nan
    final = np.where(finished & (rng.random(shape) < 0.9), rng.random(shape), np.nan)
    answer = np.where(finished, rng.integers(-1, num_members, shape), -1)
    return Groups(
        keep=rng.integers(1, 4, num_groups).astype(np.int32),
        present=present,
        score=score,
        final=final,
        num_tokens=np.where(begun, 10 * passed + 3, 0).astype(np.int32),
        num_passed=passed.astype(np.int32),
        finished=finished,
        stopped=stopped,
        answer=answer.astype(np.int32),
        drawn=np.zeros(num_groups, np.bool_),
        audited=rng.random(num_groups) < 0.5,
    )


def ended(groups: Groups, rng: np.random.Generator) -> Groups:
    """The same once nobody goes on."""
    given = {field.name: getattr(groups, field.name) for field in fields(groups)}
    given["finished"] = groups.finished | groups.alive
    given["final"] = np.where(given["finished"], rng.random(groups.final.shape), np.nan)
    return Groups(**given)


def check(stop: Bools, groups: Groups) -> None:
    assert isinstance(stop, np.ndarray)
    assert stop.shape == groups.present.shape
    assert stop.dtype == np.bool_


def play(policy: RejectionPolicy, seed: int, shape: tuple[int, int], rounds: int) -> list[Any]:
    """All that a policy says while groups come, are judged and end."""
    rng = np.random.default_rng(seed)
    found: list[Any] = []
    for _ in range(rounds):
        audited = policy.audits(np.ones(shape[0], np.int32))
        assert audited.shape == (shape[0],)
        assert audited.dtype == np.bool_
        groups = some_groups(*shape, len(policy.checks), rng)
        before = [getattr(groups, field.name).copy() for field in fields(groups)]
        stop = policy.decide(groups, Load(rng.random(), bool(rng.random() < 0.5)))
        check(stop, groups)
        priority = policy.priority(groups)
        assert priority.shape == (shape[0],)
        assert np.isfinite(priority).all()
        for field, value in zip(fields(groups), before, strict=True):
            np.testing.assert_array_equal(getattr(groups, field.name), value)
        found += [audited, stop & groups.alive, priority]
        stop[:] = True  # a host may do with it what it wants
        policy.learn(ended(groups, rng))
    assert all(isinstance(value, float) for value in policy.figures.values())
    return [*found, *policy.figures.values()]


@pytest.mark.parametrize("name", REJECTION_POLICIES)
@given(groups=st.integers(0, 6), members=st.integers(1, 9), seed=st.integers(0, 2**32 - 1))
@EXAMPLES
def test_answers_fit_and_are_the_same_under_the_same_seed(
    name: str, groups: int, members: int, seed: int
) -> None:
    first, second = (play(make(name, seed), seed, (groups, members), 6) for _ in range(2))
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("name", REJECTION_POLICIES)
def test_checkpoints_ascend(name: str) -> None:
    checks = make(name).checks
    assert checks.dtype == np.int64
    assert (checks > 0).all()
    assert (np.diff(checks) > 0).all()


@pytest.mark.parametrize("name", REJECTION_POLICIES)
def test_every_setting_is_described(name: str) -> None:
    for key, field in REJECTION_POLICIES[name].Settings.model_fields.items():
        assert key == "policy" or (field.description or "").endswith(".")


@cache
def learned(name: str) -> RejectionPolicy:
    """A policy that has learned from 200 groups whose partial scores tell much."""
    policy, rng = make(name), np.random.default_rng(0)
    for _ in range(20):
        policy.audits(np.ones(10, np.int32))
        final = rng.normal(size=(10, 8))
        noise = np.linspace(1.0, 0.1, len(policy.checks))
        score = final[:, :, None] + noise * rng.normal(size=(10, 8, len(policy.checks)))
        policy.learn(tournament(score, final))
    return policy


def tournament(score: np.ndarray, final: np.ndarray) -> Groups:
    """Groups of which one wins; who has a final score has ended, nobody was stopped."""
    shape = final.shape
    done = ~np.isnan(final)
    return Groups(
        keep=np.ones(len(final), np.int32),
        present=np.ones(shape, np.bool_),
        score=score,
        final=final,
        num_tokens=np.where(done, 2000, 100).astype(np.int32),
        num_passed=np.full(shape, score.shape[2], np.int32),
        finished=done,
        stopped=np.zeros(shape, np.bool_),
        answer=np.full(shape, -1, np.int32),
        drawn=np.zeros(len(final), np.bool_),
        audited=np.ones(len(final), np.bool_),
    )


def halfway(policy: RejectionPolicy, spread: float) -> Groups:
    """Members that all passed the last checkpoint, one of them far below the others."""
    score = np.zeros((3, 8, len(policy.checks)))
    score[:, 5] = -spread
    return tournament(score, np.full((3, 8), np.nan))


@pytest.mark.parametrize("name", BY_SCORE)
def test_unknown_scores_stop_nobody(name: str) -> None:
    policy = learned(name)
    short = Load(memory_short=True)
    assert policy.decide(halfway(policy, 50.0), short)[:, 5].all()
    assert not policy.decide(halfway(policy, np.nan), short)[:, 5].any()
    unknown = tournament(np.full((3, 8, len(policy.checks)), np.nan), np.full((3, 8), np.nan))
    assert not policy.decide(unknown, short).any()


@pytest.mark.parametrize("name", REJECTION_POLICIES)
def test_who_is_alone_is_never_stopped_for_being_worse_than_others(name: str) -> None:
    policy, rng = learned(name), np.random.default_rng(1)
    groups = some_groups(40, 1, len(policy.checks), rng)
    stop = policy.decide(groups, Load(memory_short=True)) & groups.alive
    assert not stop.any() or name == "hopeless"


@pytest.mark.parametrize("name", REJECTION_POLICIES)
@pytest.mark.parametrize("seed", range(20))
def test_absent_members_and_other_groups_change_nothing(name: str, seed: int) -> None:
    policy, rng = learned(name), np.random.default_rng(seed)
    groups = some_groups(5, 4, len(policy.checks), rng)
    load = Load(0.5, True)
    together = policy.decide(groups, load) & groups.alive
    wider = Groups(**{f.name: _wider(f.name, getattr(groups, f.name)) for f in fields(groups)})
    np.testing.assert_array_equal(policy.decide(wider, load)[:, :4] & groups.alive, together)
    for row in range(5):
        alone = groups.only(np.array([row]))
        np.testing.assert_array_equal(policy.decide(alone, load) & alone.alive, together[[row]])


def _wider(name: str, values: np.ndarray) -> np.ndarray:
    """The same groups with three more members that are absent."""
    if values.ndim == 1:
        return values
    empty = {"score": np.nan, "final": np.nan, "answer": -1}.get(name, 0)
    width = ((0, 0), (0, 3), *[(0, 0)] * (values.ndim - 2))
    return np.pad(values, width, constant_values=empty)


@pytest.mark.parametrize("name", ["conformal", "hopeless"])
def test_whoever_learns_audits_all_groups_and_then_a_tenth(name: str) -> None:
    assert make(name).audits(np.ones(5, np.int32)).all()
    policy = learned(name)
    assert policy.audits(np.ones(4000, np.int32)).mean() == pytest.approx(0.1, abs=0.02)
    assert policy.figures["audited_groups"] == 200.0


def test_of_steps_fewer_are_audited_than_of_questions_that_follow() -> None:
    policy = learned("conformal")
    keep = np.repeat([4, 1], 4000).astype(np.int32)
    drawn = policy.audits(keep)
    assert drawn[:4000].mean() == pytest.approx(0.02, abs=0.01)
    assert drawn[4000:].mean() == pytest.approx(0.1, abs=0.02)
