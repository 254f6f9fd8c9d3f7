"""Best of n, and self-consistency: all candidates answer the whole question."""

from __future__ import annotations

from collections.abc import Generator, Hashable

import numpy as np

from flyball.integrations.hf.heat import Answer, Heat, Member, State, derive_seed
from flyball.integrations.hf.question import Question
from flyball.integrations.hf.search_result import Candidate, SearchResult, best_of


def best_of_n(
    question: Question, num_candidates: int, answer: Answer | None = None
) -> Generator[Heat, None, SearchResult]:
    """One heat of all candidates, of which one wins.

    Without `answer` it is the one with the highest final score. With it, it is the first to
    finish in the order of candidates that gave the most frequent answer (self-consistency,
    arXiv 2203.11171); of equally frequent ones the first.
    """
    prompts, origin = question.prepare()
    members = [
        Member.begin(
            question.next_number(),
            -1,
            derive_seed(question.seed, place),
            origin,
            prompts.ending.max_length,
        )
        for place in range(num_candidates)
    ]
    heat = Heat(prompts, members, keep=1, answer_of=answer)
    yield heat
    counts: dict[Hashable, int] = {}
    for member in members:
        if member.answer is not None:
            counts[member.answer] = counts.get(member.answer, 0) + 1
    best = best_of(members)
    if counts:
        most = max(counts, key=lambda found: counts[found])
        best = [member.answer for member in members].index(most)
    length = heat.prompt_len
    return SearchResult(
        prompt=prompts.tokens[0],
        best=best,
        candidates=[Candidate.of(member, length) for member in members],
        num_tokens=int(np.sum([len(member.tokens) - length for member in members])),
        num_stopped=sum(member.state is State.STOPPED for member in members),
        audited=heat.audited,
        counts=counts,
    )
