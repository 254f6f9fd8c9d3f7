"""Who still takes one of the places that go on."""

from __future__ import annotations

import numpy as np

from flyball.estimators.places import place_surprise, split, twins

SCORES = np.array([[-1.0, -1.0, -2.0, -3.0, np.nan]])
SOONER = np.arange(5) < np.arange(5)[:, None]


def surprise(keep: int, stopped: tuple[int, ...] = ()) -> list[float]:
    """Where ending above anybody ahead is a surprise of 1, and coming apart one of 5."""
    gap = SCORES[:, None, :] - SCORES[:, :, None]
    pairs = ((gap > 0.0) | ((gap == 0.0) & SOONER)).astype(np.float64)
    alive = ~np.isin(np.arange(5), stopped)[None, :, None]
    same = twins(SCORES, SCORES, SOONER)
    found = place_surprise(
        pairs, same, SCORES, alive.astype(np.float64), np.array([keep]), np.array([5.0])
    )
    return found[0, :, 0].tolist()


def test_for_one_place_all_that_are_ahead_count() -> None:
    assert surprise(keep=1) == [0.0, 1.0, 2.0, 3.0, 0.0]
    assert surprise(keep=1, stopped=(1,)) == [0.0, 1.0, 1.0, 2.0, 0.0]


def test_of_several_places_the_best_may_take_all_but_one() -> None:
    assert surprise(keep=2) == [0.0, 5.0, 1.0, 2.0, 0.0]
    assert surprise(keep=3) == [0.0, 5.0, 0.0, 1.0, 0.0]


def test_groups_are_split_where_first_scores_differ_or_are_unknown() -> None:
    first = np.array([[1.0, 1.0, 5.0], [1.0, 1.1, 1.0], [1.0, np.nan, 1.0]])
    present = np.array([[True, True, False], [True, True, True], [True, True, True]])
    assert split(first, present).tolist() == [False, True, True]
