"""Scorers and comparisons that the tests of searches share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray

from flyball.integrations.hf import GovernedGenerate, SearchResult
from flyball.integrations.hf.scorers import Partial

NUM_TOKENS = 20
SAMPLED: dict[str, Any] = {"do_sample": True, "max_new_tokens": NUM_TOKENS}


def mean_token(partial: Partial) -> NDArray[np.float64]:
    """The mean of the generated tokens' ids."""
    return np.array([partial.generated(row).mean() for row in range(len(partial.tokens))])


class Recorder:
    """Scores as `mean_token` does, and keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[Partial] = []
        self.forgotten: list[int] = []

    def __call__(self, partial: Partial) -> NDArray[np.float64]:
        self.asked.append(partial)
        return mean_token(partial)

    def forget(self, candidates: NDArray[np.int64]) -> None:
        self.forgotten += candidates.tolist()


def rejection(name: str, **settings: Any) -> dict[str, Any]:
    """A policy file with checkpoints that short texts pass."""
    section = {"policy": name, "check_at_tokens": [2, 4, 8, 16], **settings}
    return {"version": 1, "rejection": section}


def watch_rows(gov: GovernedGenerate) -> list[tuple[int, int]]:
    """The number of rows and the longest text of every round to come."""
    rounds, plan = list[tuple[int, int]](), gov.governor.plan

    def noted(slots: Any, *args: Any, context_len: Any, **rest: Any) -> Any:
        rounds.append((len(slots), int(context_len.max())))
        return plan(slots, *args, context_len=context_len, **rest)

    patch.object(gov.governor, "plan", noted).start()  # for as long as there is this governor
    return rounds


def assert_nothing_open(gov: GovernedGenerate) -> None:
    assert len(gov.governor._pool.taken) == 0
    assert len(gov.governor.contests._pool.taken) == 0


def texts(results: Sequence[SearchResult]) -> list[list[list[int]]]:
    return [[candidate.tokens.tolist() for candidate in r.candidates] for r in results]
