"""What a policy would have stopped in a pool of candidates that all ran to completion."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.rejection_pool import Pool
from flyball.controller.contests import Candidates, Contests
from flyball.controller.guard import Guard
from flyball.controller.policy_file import load_policy
from flyball.policies.rejection.base import Load

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

_AT_A_TIME = 8  # problems that are decoded side by side


@dataclass(frozen=True)
class Played:
    """What became of the problems.

    Attributes:
        length: (P, N) tokens that each candidate was given.
        finished: (P, N) whether it ran to its end.
        audited: (P,) whether the problem's candidates all ran to completion, to learn from.
        policy: the policy's last figures.
        faults: by kind.
    """

    length: Ints
    finished: Bools
    audited: Bools
    figures: dict[str, float]
    faults: dict[str, int]

    def cost(self, pool: Pool) -> Floats:
        """FLOPs (P,), audits included."""
        return pool.read + np.take_along_axis(pool.spent, self.length, axis=1).sum(axis=1)

    def best(self, pool: Pool) -> Ints:
        """The finished candidate (P,) with the highest score; the first where none finished."""
        best: Ints = np.where(self.finished, pool.final, -np.inf).argmax(axis=1)
        return best

    def correct(self, pool: Pool) -> Bools:
        """Whether the chosen candidate (P,) is right."""
        rows = np.arange(len(pool))
        best = self.best(pool)
        found: Bools = pool.right[rows, best] & self.finished[rows, best]
        return found

    def wrong(self, pool: Pool, tie: float) -> Bools:
        """Whether the winner (P,) was stopped, and nobody as good finished."""
        left = np.where(self.finished, pool.final, -np.inf).max(axis=1)
        lost: Bools = left < pool.final.max(axis=1) - tie
        return lost


def play(section: Mapping[str, Any] | None, pool: Pool) -> Played:
    """Let a policy meet the problems in order, candidates of each side by side."""
    content: dict[str, Any] = {"version": 1}
    if section is not None:
        content["rejection"] = dict(section)
    guard = Guard()
    contests = Contests(load_policy(content), guard)
    length, finished = pool.length.copy(), np.ones(pool.length.shape, np.bool_)
    audited = np.zeros(len(pool), np.bool_)
    for start in range(0, len(pool), _AT_A_TIME):
        rows = np.arange(start, min(start + _AT_A_TIME, len(pool)))
        audited[rows] = _play_some(contests, pool, rows, length, finished)
    figures = {} if contests.policy is None else contests.policy.figures
    return Played(length, finished, audited, figures, guard.faults)


def _play_some(contests: Contests, pool: Pool, rows: Ints, length: Ints, finished: Bools) -> Bools:
    """Problems (G,) side by side; writes down who was stopped, returns who was audited."""
    size = pool.length.shape[1]
    before = contests.num_audited
    groups = []
    audited = np.zeros(len(rows), np.bool_)
    for place in range(len(rows)):
        groups.append(contests.open(np.array([size], np.int32), np.ones(1, np.int32))[0])
        audited[place] = contests.num_audited > before
        before = contests.num_audited
    group = np.array(groups, np.int32)
    row_of = {int(g): int(r) for g, r in zip(group, rows, strict=True)}
    own = pool.length[rows]
    told = np.zeros(own.shape, np.bool_)
    for check in [*contests.checks.tolist(), own.max() + 1]:
        ends = ~told & finished[rows] & (own <= check)
        passes = ~told & finished[rows] & (own > check)
        told |= ends
        at, member = np.nonzero(ends | passes)
        if len(at) == 0:
            break
        over = ends[at, member]
        place = rows[at]
        tokens = np.where(over, own[at, member], check)
        partial = pool.score[place, member, np.minimum(tokens, pool.score.shape[2]) - 1]
        stops = contests.review(
            Candidates(
                group[at],
                member.astype(np.int32),
                tokens.astype(np.int32),
                np.where(over, pool.final[place, member], partial),
                over,
                np.where(over, pool.answer[place, member], -1).astype(np.int32),
            ),
            Load(),
        )
        where = np.array([row_of[int(g)] for g in stops.group], np.int64)
        finished[where, stops.member] = False
        length[where, stops.member] = check
    return audited
