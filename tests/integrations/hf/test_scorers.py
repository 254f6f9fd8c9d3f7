"""Scores of partial texts, and what becomes of scorers' mistakes."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest
import torch
from candidate_texts import partial

from flyball.integrations.hf.scorers import MeanLogProb, StepEntropy, Verifier, forget
from flyball.integrations.hf.scoring import GuardedScorer

TWO = partial([[1, 2], [1, 3]], 1)


def test_mean_log_prob_is_over_what_is_known() -> None:
    known = [[-1.0, -3.0], [np.nan, -0.5], [np.nan], []]
    scores = MeanLogProb()(partial([[1]] * 4, 1, log_prob=known))
    np.testing.assert_array_equal(scores, [-2.0, -0.5, np.nan, np.nan])


@pytest.mark.parametrize(
    ("tokens", "entropy", "score"),
    [
        ([4, 5, 6], [1.0, 2.0, 3.0], -1.0),
        ([4, 9, 6], [1.0, 2.0, 3.0], -3.0),
        ([4, 9, 6, 8, 7, 7], [1.0, 2.0, 3.0, 4.0, 5.0, 6.0], -5.0),
        ([4, 9, 6, 9], [1.0, 2.0, 3.0, 4.0], -3.0),  # the next step has not begun
        ([9], [1.0], -1.0),
        ([4, 9, 6], [1.0], np.nan),
        ([], [], np.nan),
    ],
)
def test_step_entropy_is_of_the_first_token_of_the_current_step(
    tokens: list[int], entropy: list[float], score: float
) -> None:
    call = partial([[9, 9, *tokens]], 2, entropy=[entropy])  # steps of the prompt do not count
    np.testing.assert_array_equal(StepEntropy([8, 9])(call), [score])


def test_a_verifier_sees_what_was_generated() -> None:
    class Tokenizer:
        def decode(self, tokens: list[int], skip_special_tokens: bool) -> str:
            assert skip_special_tokens
            return "".join(chr(97 + token) for token in tokens)

    call = partial([[1, 2, 3], [1, 4]], [1, 1], finished=[True, False])
    np.testing.assert_array_equal(Verifier(lambda x: x.sum())(call), [5.0, np.nan])
    np.testing.assert_array_equal(Verifier(lambda x: x.sum(), unfinished=True)(call), [5.0, 4.0])
    as_text = Verifier(lambda text: text == "cd", Tokenizer())
    np.testing.assert_array_equal(as_text(call), [1.0, np.nan])


@pytest.mark.parametrize(
    "answer",
    [
        [1.0, 2.0],
        (1, 2),
        np.array([1, 2]),
        torch.tensor([1.0, 2.0], requires_grad=True),
        torch.tensor([1.0, 2.0], dtype=torch.bfloat16),
    ],
)
def test_scores_of_any_make_are_taken(answer: Any) -> None:
    guarded = GuardedScorer(lambda partial: answer)
    assert guarded(TWO).tolist() == [1.0, 2.0]
    assert guarded(TWO).dtype == np.float64
    assert not guarded.faults


def fail(call: Any) -> Any:
    raise RuntimeError("out of\nmemory")


@pytest.mark.parametrize(
    ("answer", "kind", "scores"),
    [
        (fail, "raised", [np.nan, np.nan]),
        ([1.0, np.nan], "nan", [1.0, np.nan]),
        ([1.0, None], "nan", [1.0, np.nan]),
        (torch.tensor([np.nan, 3.0]), "nan", [np.nan, 3.0]),
        ([1.0, 2.0, 3.0], "shape", [np.nan, np.nan]),
        ([[1.0], [2.0]], "shape", [np.nan, np.nan]),
        (1.0, "shape", [np.nan, np.nan]),
        ([[1.0], [2.0, 3.0]], "not numbers", [np.nan, np.nan]),
        (["1", "2"], "not numbers", [np.nan, np.nan]),
        (None, "not numbers", [np.nan, np.nan]),
        ({"a": 1.0}, "not numbers", [np.nan, np.nan]),
        (np.array([1.0, 2.0j]), "complex", [np.nan, np.nan]),
        (torch.tensor([1.0, 2.0j]), "complex", [np.nan, np.nan]),
    ],
)
def test_faults_cost_the_scores_concerned_and_are_told_once(
    caplog: pytest.LogCaptureFixture, answer: Any, kind: str, scores: list[float]
) -> None:
    guarded = GuardedScorer(answer if callable(answer) else lambda partial: answer)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            np.testing.assert_array_equal(guarded(TWO), scores)
    assert guarded.faults == {kind: 2}
    (record,) = caplog.records
    assert record.getMessage().startswith("expected ")
    assert "\n" not in record.getMessage()


def test_an_infinite_score_is_a_score() -> None:
    guarded = GuardedScorer(lambda partial: [-np.inf, 1.0])
    assert guarded(TWO).tolist() == [-np.inf, 1.0]
    assert not guarded.faults


def test_functions_need_not_forget() -> None:
    guarded = GuardedScorer(lambda partial: [1.0, 2.0])
    guarded.forget(np.array([0]))
    forget(MeanLogProb(), np.array([0]))
    assert not guarded.faults


def test_scorers_that_fail_to_forget_are_not_asked_to_stop() -> None:
    class Stubborn:
        told: list[int] = []

        def __call__(self, partial: Any) -> Any:
            return [1.0, 2.0]

        def forget(self, candidates: Any) -> None:
            self.told.extend(candidates)
            raise KeyError("never heard of")

    guarded = GuardedScorer(Stubborn())
    guarded.forget(np.array([4, 5]))
    assert Stubborn.told == [4, 5]
    assert guarded.faults == {"forget": 1}
    assert guarded(TWO).tolist() == [1.0, 2.0]
