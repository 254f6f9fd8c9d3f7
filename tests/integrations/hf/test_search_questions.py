"""When candidates are scored, and as what."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
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


class Told(Recorder):
    """Tells the scores of beginnings, too."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[list[list[int]]] = []

    def beginnings(self, partial: Partial, lengths: Any) -> Any:
        ends = zip(partial.prompt_len.tolist(), lengths, strict=True)
        self.told.append([(own - start).tolist() for start, own in ends])
        return np.array(
            [
                partial.generated(row)[:count].mean()
                for row, counts in enumerate(self.told[-1])
                for count in counts
            ]
        )


@pytest.mark.parametrize("policy", [rejection("conformal"), {"version": 1}])
def test_of_groups_in_which_nobody_is_stopped_beginnings_are_asked_at_the_end(policy: Any) -> None:
    target, _ = random_models("qwen2")
    plain, told = Recorder(), Told()
    settings: dict[str, Any] = {"num_candidates": 5, "seeds": [1, 2, 3], "batch_size": 7}
    results = []
    for scorer in (plain, told):
        with govern(target, policy=policy) as gov:
            results.append(search(gov, random_rows(3), scorer=scorer, **settings, **SAMPLED))
            assert_nothing_open(gov)
    for one, other in zip(*results, strict=True):
        assert one.best == other.best
        assert [c.score for c in one.candidates] == [c.score for c in other.candidates]
    assert not told.asked
    assert len(told.told) == 3
    asked = [counts for call in told.told for counts in call]
    assert sorted(asked) == sorted(lengths(plain.asked).values())


def test_beginnings_that_fail_stop_nobody(caplog: pytest.LogCaptureFixture) -> None:
    target, _ = random_models("qwen2")

    class Failing(Recorder):
        def beginnings(self, partial: Partial, lengths: Any) -> Any:
            return [1.0]

    gov = govern(target, policy=rejection("conformal"))
    found = search(gov, random_rows(3), num_candidates=5, scorer=Failing(), **SAMPLED)
    assert all(candidate.finished for result in found for candidate in result.candidates)
    assert len([r for r in caplog.records if "from the scorer" in r.getMessage()]) == 1
    assert_nothing_open(gov)


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
