"""How many candidates may run beside each other in bounded memory."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from flyball.integrations.hf.heat import Member


class Room:
    """Two tiers of one batch: many short beginnings, fewer that go on beyond a checkpoint.

    A candidate can be parked at its next checkpoint, so until then it needs room for the tokens
    up to there and those by which a round may pass it. Rows times the longest such reach among
    them, the texts of parked candidates on top, stay within the memory. One row always runs.

    With the checkpoint at tau of L tokens this is the batching of Early Rejection with Partial
    Reward Models (arXiv 2508.01969): about memory / tau rows before it, memory / L behind it.

    Args:
        memory_tokens: tokens of keys and values; None without a bound.
        checks: (C,) generated tokens at the checkpoints.
        overshoot: tokens by which a round may pass one.
    """

    def __init__(
        self, memory_tokens: int | None, checks: NDArray[np.int64], overshoot: int
    ) -> None:
        self._memory_tokens = memory_tokens
        self._checks = checks
        self._overshoot = overshoot

    def reach(self, member: Member) -> int:
        """Tokens that its text may have before it can be parked."""
        return min(member.next_check(self._checks) + self._overshoot, member.max_length)

    def fits(self, member: Member, running: Iterable[Member], parked: Iterable[Member]) -> bool:
        """Whether a member may run, too; it may be parked itself."""
        if self._memory_tokens is None:
            return True
        reaches = [self.reach(other) for other in running]
        held = sum(len(other.tokens) for other in parked if other is not member)
        needed = (len(reaches) + 1) * max([self.reach(member), *reaches]) + held
        return not reaches or needed <= self._memory_tokens

    def surplus(self, running: Iterable[Member], parked: Iterable[Member]) -> list[Member]:
        """Running members that have to make way now, those that need most first."""
        if self._memory_tokens is None:
            return []
        left = sorted(running, key=self.reach)
        held = sum(len(other.tokens) for other in parked)
        gone = []
        while len(left) > 1 and len(left) * self.reach(left[-1]) + held > self._memory_tokens:
            gone.append(left.pop())
            held += len(gone[-1].tokens)
        return gone
