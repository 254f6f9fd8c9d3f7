"""Who still takes one of the places that go on."""

from __future__ import annotations

import numpy as np

from flyball.estimators.places import place_surprise, twins

SCORES = np.array([[-1.0, -1.0, -2.0, -3.0, np.nan]])
SOONER = np.arange(5) < np.arange(5)[:, None]
ALONE = np.array([[0.0, 5.0, 7.0]])


def surprise(keep: int, stopped: tuple[int, ...] = ()) -> list[float]:
    """Where ending above somebody ahead by a gap is a surprise of 10 of it, or of 1 without."""
    gap = SCORES[:, None, :] - SCORES[:, :, None]
    pairs = np.where(gap > 0.0, 10.0 * gap, ((gap == 0.0) & SOONER).astype(np.float64))
    alive = ~np.isin(np.arange(5), stopped)[None, :, None]
    same = twins(SCORES, SCORES, SOONER)
    found = place_surprise(pairs, same, SCORES, alive.astype(np.float64), np.array([keep]), ALONE)
    return found[0, :, 0].tolist()


def test_for_one_place_all_that_are_ahead_count() -> None:
    assert surprise(keep=1) == [0.0, 1.0, 20.0, 50.0, 0.0]
    assert surprise(keep=1, stopped=(1,)) == [0.0, 1.0, 10.0, 30.0, 0.0]


def test_of_several_places_the_last_has_to_be_taken_from_whoever_has_it() -> None:
    assert surprise(keep=2) == [0.0, 5.0, 10.0, 20.0, 0.0]
    assert surprise(keep=3) == [0.0, 5.0, 0.0, 10.0, 0.0]
    assert surprise(keep=3, stopped=(0,)) == [0.0, 0.0, 0.0, 0.0, 0.0]


def test_that_many_fail_is_no_less_of_a_surprise_to_whoever_is_behind() -> None:
    near = np.array([[0.0, 0.0, 0.0, -0.01]])
    pairs = np.where(near[:, None, :] > near[:, :, None], 1.0, 0.0)
    alive = np.ones((1, 4, 1))
    found = place_surprise(pairs, np.zeros((1, 4, 4), np.bool_), near, alive, np.array([2]), ALONE)
    assert found[0, :, 0].tolist() == [0.0, 0.0, 0.0, 7.0]


def test_groups_of_one_and_of_several_winners_are_told_apart() -> None:
    both = np.tile(SCORES, (2, 1))
    pairs = np.where(both[:, None, :] > both[:, :, None], 1.0, 0.0)
    alive = np.ones((2, 5, 1))
    same, alone = np.zeros((2, 5, 5), np.bool_), np.tile(ALONE, (2, 1))
    found = place_surprise(pairs, same, both, alive, np.array([1, 3]), alone)
    assert found[:, :, 0].tolist() == [[0.0, 0.0, 2.0, 3.0, 0.0], [0.0, 0.0, 0.0, 5.0, 0.0]]
