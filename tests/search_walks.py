"""Made-up searches: candidates' scores walk at random, and a policy stops some on the way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flyball.controller.contests import Candidates, Contests, Stops
from flyball.controller.guard import Guard
from flyball.controller.policy_file import load_policy
from flyball.policies.rejection.base import Load

Floats = NDArray[np.float64]
CHECKS = (8, 16, 24, 32, 48)
LENGTH = 64
AT_ONCE = 8  # groups that are open together


@dataclass(frozen=True)
class Walks:
    """Groups of candidates whose partial and final scores are known beforehand.

    Attributes:
        score: (G, N, C) at the checkpoints, as the scorer sees them.
        final: (G, N).
    """

    score: Floats
    final: Floats

    def __add__(self, other: Walks) -> Walks:
        return Walks(
            np.concatenate([self.score, other.score]), np.concatenate([self.final, other.final])
        )


@dataclass(frozen=True)
class Fate:
    """What became of groups.

    Attributes:
        audited: (G,).
        stopped: (G, N).
        saved: (G,) share of the group's tokens.
        contests: that decided.
    """

    audited: NDArray[np.bool_]
    stopped: NDArray[np.bool_]
    saved: Floats
    contests: Contests


def walks(num_groups: int, num_members: int, seed: int, noise: float = 0.5) -> Walks:
    """Scores that add a normal step a token; the scorer sees them through noise."""
    rng = np.random.default_rng(seed)
    path = rng.normal(size=(num_groups, num_members, LENGTH)).cumsum(axis=2)
    seen = path[:, :, np.array(CHECKS) - 1]
    return Walks(seen + noise * rng.normal(size=seen.shape), path[:, :, -1])


def contests(section: Mapping[str, Any], seed: int = 0) -> Contests:
    """Contests under a policy, its draws by seed."""
    file = load_policy({"version": 1, "rejection": {"check_at_tokens": list(CHECKS), **section}})
    made = Contests(file, Guard())
    assert made.policy is not None
    made.policy.rng = np.random.default_rng(seed)
    return made


def play(course: Walks, contests: Contests, keep: int = 1) -> Fate:
    """Let the groups run, a few at once; members move from checkpoint to checkpoint together."""
    num_groups, num_members = course.final.shape
    stopped = np.zeros(course.final.shape, np.bool_)
    tokens = np.full(course.final.shape, LENGTH)
    audited = np.zeros(num_groups, np.bool_)
    for first in range(0, num_groups, AT_ONCE):
        rows = np.arange(first, min(first + AT_ONCE, num_groups))
        before = contests.num_audited
        number = _open(contests, len(rows), num_members, keep)
        if contests.num_audited > before:
            audited[rows] = contests._book.groups(number).audited
        row_of = np.zeros(int(number.max()) + 1, np.intp)
        row_of[number] = rows
        for place, at in enumerate((*CHECKS, LENGTH)):
            group, member = np.nonzero(~stopped[rows])
            ends = at == LENGTH
            found = course.final if ends else course.score[:, :, place]
            score = found[rows[group], member]
            stops = _review(contests, number[group], member, at, score, ends)
            stopped[row_of[stops.group], stops.member] = True
            tokens[row_of[stops.group], stops.member] = at
    assert not contests._guard.faults
    return Fate(audited, stopped, 1.0 - tokens.mean(axis=1) / LENGTH, contests)


def _open(contests: Contests, num_groups: int, num_members: int, keep: int) -> NDArray[np.int32]:
    sizes = np.full(num_groups, num_members, np.int32)
    return contests.open(sizes, np.full(num_groups, keep, np.int32))


def _review(
    contests: Contests,
    group: NDArray[np.int32],
    member: NDArray[np.intp],
    at: int,
    score: Floats,
    ends: bool,
) -> Stops:
    n = len(group)
    candidates = Candidates(
        group,
        member.astype(np.int32),
        np.full(n, at, np.int32),
        score,
        np.full(n, ends),
        np.full(n, -1, np.int32),
    )
    return contests.review(candidates, Load())


def lost_share(course: Walks, fate: Fate, keep: int = 1) -> Floats:
    """Share (G,) of each group's `keep` best by final score that were stopped."""
    best = np.argsort(-course.final, axis=1)[:, :keep]
    lost: Floats = np.take_along_axis(fate.stopped, best, axis=1).mean(axis=1)
    return lost
