"""When candidates are scored, and as what."""

from __future__ import annotations

from typing import Any

import numpy as np
from hf_texts import random_models, random_rows
from search_texts import SAMPLED, Recorder, assert_nothing_open, mean_token, rejection, watch_rows

from flyball.integrations.hf import govern, search
from flyball.integrations.hf.scorers import Partial

CHECKS = [2, 4, 8, 16]


def lengths(asked: list[Partial]) -> dict[int, list[int]]:
    """Generated tokens of each candidate in the order in which it was scored."""
    found = dict[int, list[int]]()
    for partial in asked:
        for row, candidate in enumerate(partial.candidate.tolist()):
            found.setdefault(candidate, []).append(len(partial.generated(row)))
    return found


def test_candidates_are_scored_as_they_were_at_every_checkpoint() -> None:
    target, _ = random_models("qwen2")
    scorer = Recorder()
    with govern(target, policy=rejection("conformal")) as gov:
        found = search(
            gov, random_rows(5), num_candidates=5, scorer=scorer, batch_size=7, **SAMPLED
        )
    ends = [len(candidate.tokens) for result in found for candidate in result.candidates]
    passed = {
        number: [check for check in CHECKS if check < end] + [end]
        for number, end in enumerate(ends)
    }
    # Numbers go by the order of questions, all of whose candidates finish.
    assert lengths(scorer.asked) == passed


def test_questions_of_several_rounds_are_asked_together() -> None:
    target, _ = random_models("qwen2")
    scorer = Recorder()
    gov = govern(target, policy=rejection("conformal", check_at_tokens=list(range(4, 20, 4))))
    rounds = watch_rows(gov)
    search(gov, random_rows(9), num_candidates=8, scorer=scorer, batch_size=32, **SAMPLED)
    assert len(scorer.asked) <= len(rounds) / 3
    asked_at_once = [len(partial.candidate) for partial in scorer.asked]
    assert np.mean(asked_at_once) > 8


def test_a_text_that_ended_before_its_answer_is_stopped_all_the_same() -> None:
    target, _ = random_models("qwen2")
    settings: dict[str, Any] = {**SAMPLED, "max_new_tokens": 3}

    def scorer(partial: Partial) -> Any:
        return np.where(partial.candidate % 4 == 1, 0.5, 0.0)

    gov = govern(target, policy=rejection("self_eval"))
    found = search(gov, random_rows(3), num_candidates=4, scorer=scorer, batch_size=20, **settings)
    for result in found:
        assert result.best == 1
        # Texts of two tokens have no more than an end.
        for place, candidate in enumerate(result.candidates):
            assert candidate.stopped == (len(candidate.tokens) == 3 and place != 1)
    assert_nothing_open(gov)


def test_whoever_waits_for_an_answer_to_go_on_gets_it_at_once() -> None:
    target, _ = random_models("qwen2")
    section = rejection("top_fraction", tau=4)
    gov = govern(target, policy=section)
    found = search(
        gov, random_rows(3), num_candidates=8, scorer=mean_token, batch_size=24, **SAMPLED
    )
    stopped = [c for result in found for c in result.candidates if c.stopped]
    assert stopped
    assert all(len(candidate.tokens) == 4 for candidate in stopped)
