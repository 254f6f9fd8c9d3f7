"""Scores candidates and asks the policy who is to stop."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flyball.controller.contests import NO_ANSWER, Candidates, Contests, Stops
from flyball.integrations.hf.heat import Heat, Member, State
from flyball.integrations.hf.scorers import Partial
from flyball.integrations.hf.scoring import GuardedScorer
from flyball.policies.rejection.base import Load

Longs = NDArray[np.int64]
Floats = NDArray[np.float64]

_ROUNDS = 4  # for which a question may wait


@dataclass(frozen=True)
class _Question:
    """A member as it was when it ended or passed a checkpoint.

    Attributes:
        heat: of the member.
        member: that goes on meanwhile.
        tokens: (length,) its text.
        log_prob: of the generated tokens.
        entropy: at them; empty where nobody asks.
        finished: whether it has ended.
    """

    heat: Heat
    member: Member
    tokens: Longs
    log_prob: Floats
    entropy: Floats
    finished: bool


class Reviewer:
    """Says of candidates that ended or passed a checkpoint whom their groups can do without.

    A scorer that is a model reads a few tokens of many texts in little more time than of few, so
    questions wait for those of the following rounds while candidates go on. What is scored is the
    text at the checkpoint, and of each candidate one question is answered after the other, so that
    the policy judges what it would have judged at once; who is stopped has only generated a few
    tokens more, or ended. Nobody waits where candidates are parked at checkpoints, or where steps
    branch: these are short, and the next one depends on the answer.

    Nobody of an audited group is stopped, or of any without a policy: where a scorer tells from
    one look at a text the scores of all its beginnings, questions about such a group wait until it
    has ended.

    Args:
        contests: the governor's.
        scorer: of candidates; None where nobody needs scores.
    """

    def __init__(self, contests: Contests, scorer: GuardedScorer | None) -> None:
        self._contests = contests
        self._scorer = scorer
        self._questions: list[_Question] = []
        self._num_rounds = 0  # since the first of them
        # Of groups in which nobody is stopped, and of those of them that have ended.
        self._open: dict[Heat, list[_Question]] = {}
        self._ended: list[_Question] = []

    def note(self, heat: Heat, member: Member) -> None:
        """A member has ended or passed a checkpoint."""
        finished = member.state is State.FINISHED
        tokens, log_prob, entropy = member.tokens, member.log_prob, member.entropy
        question = _Question(heat, member, tokens, log_prob, entropy, finished)
        nobody_stops = heat.audited or self._contests.policy is None
        if not (nobody_stops and self._scorer is not None and self._scorer.tells_beginnings):
            self._questions.append(question)
            return
        self._open.setdefault(heat, []).append(question)
        if heat.has_run:
            self._ended += self._open.pop(heat)

    def is_time(self, nobody_runs: bool) -> bool:
        """Whether to review now; asked once a round."""
        self._num_rounds += len(self._questions) > 0
        policy = self._contests.policy
        return (
            nobody_runs
            or len(self._ended) > 0
            or self._num_rounds >= _ROUNDS
            or (policy is not None and (policy.waits or not policy.scores))
            or any(q.heat.branches for q in self._questions)
        )

    def review(self, load: Load) -> Iterator[Stops]:
        """Score what was noted and ask who is to stop, which has to be done before going on."""
        self._num_rounds = 0
        if self._ended:
            questions, self._ended = self._ended, []
            yield self._ask(questions, self._beginnings(questions), load)
        while self._questions:
            asked: dict[Member, _Question] = {}
            later = []
            for question in self._questions:
                if question.member in asked:
                    later.append(question)
                elif question.member.state is not State.STOPPED:
                    asked[question.member] = question
            self._questions = later
            if asked:
                questions = list(asked.values())
                yield self._ask(questions, self._score(questions), load)

    def _ask(self, questions: Sequence[_Question], scores: Floats, load: Load) -> Stops:
        """Ask who is to stop; of a member several questions may come, in their order."""
        finished = np.array([q.finished for q in questions])
        answers = np.full(len(questions), NO_ANSWER, np.int32)
        for place, question in enumerate(questions):
            if question.finished or not np.isnan(scores[place]):
                question.member.score = float(scores[place])
            if question.finished:
                answers[place] = question.heat.number_answer(question.member)
        starts = np.array([q.member.start for q in questions], np.int32)
        candidates = Candidates(
            group=np.array([q.heat.group for q in questions], np.int32),
            member=np.array([q.heat.members.index(q.member) for q in questions], np.int32),
            num_tokens=np.array([len(q.tokens) for q in questions], np.int32) - starts,
            score=scores,
            finished=finished,
            answer=answers,
        )
        return self._contests.review(candidates, load)

    def _score(self, questions: Sequence[_Question]) -> Floats:
        """Scores of those that need one; NaN of the others."""
        scores = np.full(len(questions), np.nan)
        policy = self._contests.policy
        every = policy is not None and policy.scores
        wanted = np.array([every or q.finished for q in questions])
        some = [q for q, needed in zip(questions, wanted, strict=True) if needed]
        if self._scorer is not None and some:
            scores[wanted] = self._scorer(_partial(some))
        return scores

    def _beginnings(self, questions: Sequence[_Question]) -> Floats:
        """Scores of members that have ended, at every checkpoint and at the end."""
        assert self._scorer is not None
        places: dict[Member, list[int]] = {}
        for place, question in enumerate(questions):
            places.setdefault(question.member, []).append(place)
        lengths = [np.array([len(questions[p].tokens) for p in own]) for own in places.values()]
        partial = _partial([questions[own[-1]] for own in places.values()])
        scores = np.full(len(questions), np.nan)
        scores[np.concatenate(list(places.values()))] = self._scorer.beginnings(partial, lengths)
        return scores


def _partial(questions: Sequence[_Question]) -> Partial:
    return Partial(
        candidate=np.array([q.member.number for q in questions]),
        parent=np.array([q.member.parent for q in questions]),
        tokens=[q.tokens for q in questions],
        prompt_len=np.array([q.heat.prompt_len for q in questions]),
        finished=np.array([q.finished and q.heat.has_ended(q.member) for q in questions]),
        log_prob=[q.log_prob for q in questions],
        entropy=[q.entropy for q in questions],
    )
