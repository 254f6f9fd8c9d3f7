"""What a search found."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from flyball.integrations.hf.heat import Member, State

Longs = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Candidate:
    """One candidate.

    Attributes:
        tokens: (length,) that it generated.
        score: its final one, or the latest before it was stopped; NaN where none is known.
        finished: whether its text has ended by itself, at its limit included.
        stopped: whether the policy stopped it, after as many tokens as it has; none where it was
            stopped before it began.
        seed: of its tokens, the last step's for a beam.
        answer: that it gave; None without one.
    """

    tokens: Longs
    score: float
    finished: bool
    stopped: bool
    seed: int
    answer: Hashable | None = None

    @classmethod
    def of(cls, member: Member, prompt_len: int) -> Candidate:
        """What became of a member."""
        return cls(
            tokens=member.tokens[prompt_len:],
            score=member.score,
            finished=member.state is State.FINISHED,
            stopped=member.state is State.STOPPED,
            seed=member.seed,
            answer=member.answer,
        )


@dataclass(frozen=True)
class SearchResult:
    """What a search found for one prompt.

    Attributes:
        prompt: (length,) token ids.
        best: which candidate won.
        candidates: all of them; of beams those that were left at the end.
        num_tokens: tokens that were generated for this prompt, stopped candidates included.
        num_stopped: candidates that the policy stopped; of beams in all steps.
        audited: whether nobody could be stopped, for the policy to learn from; of beams whether
            that was so in every step.
        counts: how often each answer was given, the first to come first.
    """

    prompt: Longs
    best: int
    candidates: Sequence[Candidate]
    num_tokens: int
    num_stopped: int
    audited: bool
    counts: dict[Hashable, int] = field(default_factory=dict)

    @property
    def tokens(self) -> Longs:
        """Generated tokens (length,) of the candidate that won."""
        return self.candidates[self.best].tokens

    @property
    def answer(self) -> Hashable | None:
        """Of the candidate that won; None without one."""
        return self.candidates[self.best].answer


def best_of(members: Sequence[Member]) -> int:
    """Place of the winner: the highest score of those that finished, else the longest.

    An unknown score loses to any other; of equals the first wins.
    """
    finished = np.array([member.state is State.FINISHED for member in members])
    if not finished.any():
        return int(np.argmax([len(member.tokens) for member in members]))
    return int(np.lexsort((-ranked(members), ~finished))[0])


def ranked(members: Sequence[Member]) -> Floats:
    """Scores (n,) in which unknown ones are the lowest."""
    scores = np.array([member.score for member in members], np.float64)
    return np.where(np.isnan(scores), -np.inf, scores)
