"""Scores candidates and asks the policy who is to stop."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from flyball.controller.contests import NO_ANSWER, Candidates, Contests, Stops
from flyball.integrations.hf.heat import Heat, Member, State
from flyball.integrations.hf.scorers import Partial
from flyball.integrations.hf.scoring import GuardedScorer
from flyball.policies.rejection.base import Load

Floats = NDArray[np.float64]
Seen: TypeAlias = Sequence[tuple[Heat, Member]]


class Reviewer:
    """Says of candidates that ended or passed a checkpoint whom their groups can do without.

    Args:
        contests: the governor's.
        scorer: of candidates; None where nobody needs scores.
    """

    def __init__(self, contests: Contests, scorer: GuardedScorer | None) -> None:
        self._contests = contests
        self._scorer = scorer

    def __call__(self, seen: Seen, load: Load) -> Stops:
        """Score these members and ask who is to stop."""
        scores = self._score(seen)
        finished = np.array([member.state is State.FINISHED for _, member in seen])
        answers = np.full(len(seen), NO_ANSWER, np.int32)
        for place, (heat, member) in enumerate(seen):
            if finished[place] or not np.isnan(scores[place]):
                member.score = float(scores[place])
            if finished[place]:
                answers[place] = heat.number_answer(member)
        candidates = Candidates(
            group=np.array([heat.group for heat, _ in seen], np.int32),
            member=np.array([heat.members.index(member) for heat, member in seen], np.int32),
            num_tokens=np.array([member.num_tokens for _, member in seen], np.int32),
            score=scores,
            finished=finished,
            answer=answers,
        )
        return self._contests.review(candidates, load)

    def _score(self, seen: Seen) -> Floats:
        """Scores of those that need one; NaN of the others."""
        scores = np.full(len(seen), np.nan)
        policy = self._contests.policy
        every = policy is not None and policy.scores
        wanted = np.array([every or member.state is State.FINISHED for _, member in seen])
        pairs = [pair for pair, needed in zip(seen, wanted, strict=True) if needed]
        if self._scorer is None or not pairs:
            return scores
        scores[wanted] = self._scorer(
            Partial(
                candidate=np.array([member.number for _, member in pairs]),
                parent=np.array([member.parent for _, member in pairs]),
                tokens=[member.tokens for _, member in pairs],
                prompt_len=np.array([heat.prompt_len for heat, _ in pairs]),
                finished=np.array(
                    [m.state is State.FINISHED and heat.has_ended(m) for heat, m in pairs]
                ),
                log_prob=[member.log_prob for _, member in pairs],
                entropy=[member.entropy for _, member in pairs],
            )
        )
        return scores
