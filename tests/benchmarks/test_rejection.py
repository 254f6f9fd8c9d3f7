"""What the benchmark of early rejection makes of a pool of candidates."""

from __future__ import annotations

import numpy as np
import pytest
from benchmarks.rejection_best import conformal
from benchmarks.rejection_pool import Pool, numbered
from benchmarks.rejection_replay import play
from benchmarks.rejection_summary import summarise
from benchmarks.rejection_votes import right_by_vote, vote


def make_pool(num_problems: int, num_candidates: int, seed: int = 0) -> Pool:
    """Candidates whose scores fall with every error; errors come early."""
    rng = np.random.default_rng(seed)
    shape = (num_problems, num_candidates)
    length = rng.integers(50, 70, (num_problems, 1)).repeat(num_candidates, axis=1)
    error = rng.random((*shape, 70)) < np.where(np.arange(70) < 20, 0.08, 0.002)
    fall = -0.05 * rng.random(error.shape) - 4.0 * error * rng.random(error.shape)
    score = np.where(np.arange(70) < length[:, :, None], fall.cumsum(axis=2), np.nan)
    error &= np.arange(70) < length[:, :, None]
    right = ~error.any(axis=2)
    rows = np.arange(num_problems)[:, None], np.arange(num_candidates)
    return Pool(
        length=length,
        score=score,
        final=score[*rows, length - 1],
        right=right,
        answer=np.where(right, 0, 1 + rng.integers(0, 5, shape)),
        read=np.full(num_problems, 7.0),
        spent=np.tile(np.arange(71.0), (num_problems, 1)),
    )


def test_without_a_policy_everything_runs_to_its_end() -> None:
    pool = make_pool(30, 8)
    played = play(None, pool)
    assert played.finished.all()
    assert not played.audited.any()
    np.testing.assert_array_equal(played.length, pool.length)
    np.testing.assert_array_equal(played.cost(pool), 7.0 + pool.length.sum(axis=1))
    np.testing.assert_array_equal(played.cost(pool), pool.full_cost)
    assert not played.wrong(pool, 0.0).any()


def test_conformal_saves_and_keeps_its_promise() -> None:
    pool = make_pool(400, 16)
    played = play(conformal(0.1), pool)
    free = ~played.audited
    assert not played.faults
    assert free.sum() > 300
    assert played.finished[~free].all()
    assert (played.length[~played.finished] < pool.length[~played.finished]).all()
    assert played.wrong(pool, 0.1)[free].mean() <= 0.12
    assert played.cost(pool).sum() < 0.7 * pool.full_cost.sum()
    assert played.finished.any(axis=1).all()


def test_what_noise_scores_is_left_alone() -> None:
    pool = make_pool(200, 16).with_noise(np.random.default_rng(1))
    played = play(conformal(0.05), pool)
    assert played.finished.all()


def test_problems_are_taken_in_order_and_pools_joined() -> None:
    pool = make_pool(6, 4)
    some = pool.take(np.array([3, 1]), 2)
    np.testing.assert_array_equal(some.final, pool.final[[3, 1], :2])
    both = some.followed_by(pool.take(np.array([0]), 2))
    np.testing.assert_array_equal(both.length[:, 0], pool.length[[3, 1, 0], 0])
    assert len(both) == 3


def test_votes_count_answers_of_the_first_samples() -> None:
    answers = [4, 2, 2, None, 9, 9, 9, 4]
    np.testing.assert_array_equal(numbered(answers, (2, 4)), [[0, 1, 1, -1], [0, 0, 0, 1]])
    pool = make_pool(2, 4)
    pool.answer[:] = numbered(answers, (2, 4))
    pool.right[:] = [[True, False, False, False], [True, True, True, False]]
    np.testing.assert_array_equal(right_by_vote(pool, np.array([4, 4])), [False, True])
    np.testing.assert_array_equal(right_by_vote(pool, np.array([2, 1])), [True, True])


def test_consensus_asks_for_fewer_samples_where_answers_agree() -> None:
    pool = make_pool(40, 16)
    pool.answer[:20] = 0
    pool.answer[20:] = np.arange(16)
    found = vote({"policy": "consensus", "confidence": 0.95}, pool)
    assert (found[:20] < 8).all()
    assert (found[20:] > found[:20].max()).all()


def test_the_summary_names_the_best_fraction_of_equal_accuracy() -> None:
    rows = [
        {
            "part": "best_of_n",
            "n": 16,
            "policy": name,
            "accuracy": accuracy,
            "saved": saved,
            "wrong": 0.25 - 1.0 / saved / 8,
            "stopped": 0.5,
        }
        for name, accuracy, saved in (
            ("none", 0.9, 1.0),
            ("conformal 0.05", 0.898, 2.0),
            ("conformal 0.05", 0.900, 4.0),  # in another order
            ("top_fraction 1/4 tau 4", 0.7, 3.0),
            ("top_fraction 1/4 tau 8", 0.896, 2.0),
        )
    ]
    found = summarise(rows)
    own = found["best_of_n"]["n=16"]
    assert own["conformal 0.05"].startswith("saves 2.67x, accuracy -0.1 points")
    assert own["best top_fraction 1/4 tau 8"] == "saves 2.00x, accuracy -0.4 points"
    assert found["promise"]["conformal 0.05, n=16"]["splits"] == 2
    assert found["promise"]["conformal 0.05, n=16"]["mean rate"] == pytest.approx(0.203125)
