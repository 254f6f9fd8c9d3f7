"""Sampling by seeds is exact: chi-square against full enumeration, as in `test_sampling`.

Texts of 200,000 seeds, at a false-alarm rate of 1e-4 a test. What is drawn is a function of the
seeds, so the tests repeat exactly.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from policy_sections import length_section
from sampled_texts import (
    FALSE_ALARM_RATE,
    VOCAB,
    WARPERS,
    draw_counts_by_seeds,
    expected_probs,
    noisy,
)
from text_statistics import p_value

from flyball.integrations.hf import GovernedGenerate, govern
from flyball.integrations.hf.proposal import Proposal
from flyball.integrations.hf.verdict import Judge, Verdict
from flyball.kernels.philox import token_noise


@pytest.fixture(scope="module")
def pair(tiny: Any) -> tuple[Any, Any]:
    """A target, and a draft that is the target with noise on its weights."""
    target = tiny(2, VOCAB, seed=1, spread=0.4)
    return target, noisy(target, 2)


def make_gov(pair: tuple[Any, Any]) -> GovernedGenerate:
    policy = {"version": 1, "length": length_section("static", 2)}
    return govern(pair[0], [pair[1]], policy=policy)


@pytest.mark.parametrize("warp", WARPERS.values(), ids=WARPERS)
def test_texts_are_distributed_as_the_targets(
    pair: tuple[Any, Any], warp: dict[str, float]
) -> None:
    gov = make_gov(pair)
    counts = draw_counts_by_seeds(gov, warp)
    assert counts.sum() >= 200_000
    assert 0.1 < gov.stats.num_accepted / gov.stats.num_drafted < 0.9
    assert p_value(counts, expected_probs(pair[0], warp)) > FALSE_ALARM_RATE


class RedrawsTheRejected(Judge):
    """Mutant: a draft is accepted by one noise, and what follows a rejection drawn by another."""

    def _compared(self, scores: torch.Tensor, proposal: Proposal, *rest: Any) -> Verdict:
        verdict = super()._compared(scores, proposal, *rest)
        wrong = verdict.num_accepted < proposal.draft_len
        return redrawn(self, verdict, wrong, ahead=1000)


class ShiftsAfterTheLast(Judge):
    """Mutant: after full acceptance the next token has the noise of the one behind it."""

    def _compared(self, scores: torch.Tensor, proposal: Proposal, *rest: Any) -> Verdict:
        verdict = super()._compared(scores, proposal, *rest)
        whole = (verdict.num_accepted == proposal.draft_len) & (proposal.draft_len > 0)
        return redrawn(self, verdict, whole, ahead=1)


def redrawn(judge: Judge, verdict: Verdict, rows: np.ndarray, ahead: int) -> Verdict:
    """The last emitted token of some rows (rows,) with the noise of one that comes later."""
    at, texts = np.flatnonzero(rows), judge._texts
    last = verdict.num_accepted[at]
    index = texts.num_tokens[at] - texts.prompt_len[at] + last + ahead
    seeds = torch.from_numpy(texts.seed[at].view(np.int64))
    noise = token_noise(seeds, torch.from_numpy(index)[:, None], VOCAB)[:, 0]
    emitted = verdict.emitted.copy()
    emitted[at, last] = (verdict.scores[at, last] + noise).argmax(dim=-1).numpy()
    return replace(verdict, emitted=emitted)


@pytest.mark.parametrize("mutant", [RedrawsTheRejected, ShiftsAfterTheLast])
@pytest.mark.parametrize("warp", WARPERS.values(), ids=WARPERS)
def test_mutants_fail_the_same_test(
    pair: tuple[Any, Any],
    monkeypatch: pytest.MonkeyPatch,
    mutant: type[Judge],
    warp: dict[str, float],
) -> None:
    monkeypatch.setattr(sys.modules["flyball.integrations.hf.assemble"], "Judge", mutant)
    counts = draw_counts_by_seeds(make_gov(pair), warp)
    assert p_value(counts, expected_probs(pair[0], warp)) < FALSE_ALARM_RATE


@pytest.mark.parametrize("mutant", [RedrawsTheRejected, ShiftsAfterTheLast])
def test_mutants_change_texts(
    pair: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch, mutant: type[Judge]
) -> None:
    settings: dict[str, Any] = {"do_sample": True, "top_k": 0, "max_new_tokens": 20}
    prompts, plain = [[1, 3]] * 20, govern(pair[0])
    expected = plain.generate_many(prompts, seeds=range(20), **settings)
    same = make_gov(pair).generate_many(prompts, seeds=range(20), **settings)
    assert [t.tolist() for t in same] == [t.tolist() for t in expected]
    monkeypatch.setattr(sys.modules["flyball.integrations.hf.assemble"], "Judge", mutant)
    found = make_gov(pair).generate_many(prompts, seeds=range(20), **settings)
    assert [t.tolist() for t in found] != [t.tolist() for t in expected]
