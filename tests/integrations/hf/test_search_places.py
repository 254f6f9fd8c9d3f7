"""Whom of a step's expansions the next one goes on from."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from flyball.integrations.hf.heat import Member, Origin, State
from flyball.integrations.hf.search_beam import _survivors

NAN = float("nan")
ORIGIN = Origin(np.array([1, 2]), np.zeros(0), np.zeros(0))


def step(*candidates: tuple[Sequence[int], float]) -> list[Member]:
    """Candidates by what they wrote and their scores, NaN for those that were stopped."""
    members = []
    for number, (text, score) in enumerate(candidates):
        member = Member.begin(number, -1, 100 + number, ORIGIN, 20)
        member.tokens = np.array([1, 2, *text])
        member.state = State.STOPPED if np.isnan(score) else State.FINISHED
        member.score = score
        members.append(member)
    return members


def places(members: list[Member], count: int) -> list[tuple[int, int]]:
    """Which member's text each place goes on from, and whose seed it takes."""
    return [(place.member.number, place.seed - 100) for place in _survivors(members, count)]


def test_without_rejection_the_best_go_on() -> None:
    members = step(([5], 1.0), ([6], 3.0), ([7], 2.0), ([8], 3.0))
    assert places(members, 3) == [(1, 1), (3, 3), (2, 2)]


def test_whoever_was_stopped_leaves_its_place_to_one_that_began_alike() -> None:
    members = step(([5, 6, 7], 1.0), ([4, 4], 0.0), ([5], NAN), ([5, 6], NAN), ([5], NAN))
    assert places(members, 3) == [(0, 0), (0, 2), (0, 3)]
    assert places(members, 9) == [(0, 0), (0, 2), (0, 3), (0, 4), (1, 1)]


def test_those_that_began_alike_and_ended_apart_take_turns() -> None:
    members = step(([5, 6], 1.0), ([5, 7], 2.0), ([5], NAN), ([5], NAN), ([5], NAN))
    assert places(members, 9) == [(1, 1), (1, 3), (0, 0), (0, 2), (0, 4)]


def test_nobody_stands_in_for_who_began_otherwise_or_not_at_all() -> None:
    members = step(([5, 6], 1.0), ([6], NAN), ([], NAN), ([5, 7], NAN))
    assert places(members, 9) == [(0, 0)]
    assert places(step(([5], NAN), ([6], NAN)), 2) == []
