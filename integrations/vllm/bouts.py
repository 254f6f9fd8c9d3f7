"""What is known of candidates for the same prize."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(slots=True, eq=False)
class Rival:
    """One candidate.

    Attributes:
        bout: that it takes part in.
        name: of its request.
        index: its number among the answers that were asked for.
        ends_on_text: whether it may end by a stop string, which only the frontend sees.
        member: its number in the group, once that is open.
        num_tokens: generated so far.
        num_passed: checkpoints that these have passed.
        log_prob: sum over its tokens; NaN where the engine does not say.
        score: mean log-probability up to the last checkpoint, or the end.
        finished: whether its text has ended by itself.
    """

    bout: Bout
    name: str
    index: int
    ends_on_text: bool
    member: int = -1
    num_tokens: int = 0
    num_passed: int = 0
    log_prob: float = 0.0
    score: float = math.nan
    finished: bool = False

    def take(self, output: Any, checks: Sequence[int]) -> bool:
        """Take in an output of the engine; whether it is a reason to review the candidate."""
        num_before, num_new = self.num_tokens, len(output.new_token_ids)
        told = output.new_logprobs
        own = np.full(num_new, np.nan) if told is None else told.logprobs[:num_new, 0]
        self.num_tokens += num_new
        num_passed = bisect_right(checks, self.num_tokens)
        passes = num_passed > self.num_passed
        if passes:
            # Up to the checkpoint's very token, however many a step accepted: alike for all.
            check = checks[num_passed - 1]
            self.score = (self.log_prob + float(own[: check - num_before].sum())) / check
            self.num_passed = num_passed
        self.log_prob += float(own.sum())
        return passes

    def end(self) -> None:
        """Its text has ended by itself."""
        self.finished = True
        self.score = self.log_prob / self.num_tokens if self.num_tokens else math.nan


@dataclass(slots=True, eq=False)
class Bout:
    """A group of candidates.

    Attributes:
        parent: name of the request for all of them.
        prompt: that they answer.
        rivals: in the order in which they came.
        number: as `Contests.open` handed it out; None while others may still join.
    """

    parent: str
    prompt: Any
    rivals: list[Rival] = field(default_factory=list)
    number: int | None = None
