"""Self-consistency on a pool: how many samples a policy asks for, and what the vote says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.rejection_pool import Pool
from flyball.controller.contests import Candidates, Contests
from flyball.controller.guard import Guard
from flyball.controller.policy_file import load_policy
from flyball.policies.rejection.base import Load

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

_AT_ONCE = 64  # samples that are decoded side by side


def vote(section: Mapping[str, Any], pool: Pool) -> Ints:
    """Samples (P,) that each problem's vote was taken over: its first ones."""
    contests = Contests(load_policy({"version": 1, "rejection": dict(section)}), Guard())
    num_problems, size = pool.length.shape
    group = contests.open(np.full(num_problems, size, np.int32), np.ones(num_problems, np.int32))
    row_of = np.zeros(int(group.max()) + 1, np.int64)
    row_of[group] = np.arange(num_problems)
    begun = np.zeros(num_problems, np.int64)
    goes_on = np.ones(num_problems, np.bool_)
    while goes_on.any():
        rows = np.flatnonzero(goes_on)
        order = np.argsort(-contests.priority(group[rows]), kind="stable")
        rows = rows[order[:_AT_ONCE]]
        member = begun[rows]
        begun[rows] += 1
        stops = contests.review(
            Candidates(
                group[rows],
                member.astype(np.int32),
                pool.length[rows, member].astype(np.int32),
                pool.final[rows, member],
                np.ones(len(rows), np.bool_),
                pool.answer[rows, member].astype(np.int32),
            ),
            Load(),
        )
        goes_on[row_of[stops.ended]] = False
    return begun


def right_by_vote(pool: Pool, num_samples: Ints) -> Bools:
    """Whether the most frequent answer (P,) of the first samples is right; the first of ties."""
    used = np.arange(pool.length.shape[1]) < num_samples[:, None]
    found = np.zeros(len(pool), np.bool_)
    most = int(pool.answer.max()) + 1
    counts = np.zeros((len(pool), most), np.int64)
    rows, members = np.nonzero(used & (pool.answer >= 0))
    np.add.at(counts, (rows, pool.answer[rows, members]), 1)
    leader = counts.argmax(axis=1)
    right = pool.right & (pool.answer == leader[:, None])
    found[:] = right.any(axis=1) & (counts.max(axis=1, initial=0) > 0)
    return found
