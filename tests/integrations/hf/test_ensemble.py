"""Drafting with an ensemble: the output stays the target's, and what members say is handed on.

Sampling is tested by chi-square against full enumeration as in `test_sampling`.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from ensemble_calls import ensemble_policy, only_together, take_over
from hf_texts import SETTINGS, assert_same, pad_left, plain, random_models, random_rows
from sampled_texts import FALSE_ALARM_RATE, VOCAB, WARPERS, draw_counts, expected_probs, noisy
from text_statistics import p_value

from flyball.controller.errors import HostError, PolicyFileError
from flyball.controller.governor import Plan
from flyball.integrations.hf import DraftView, GovernedGenerate, govern
from flyball.integrations.hf.drafts import Drafts
from flyball.integrations.hf.proposal import Proposal
from flyball.policies.registry import ENSEMBLE_POLICIES


@pytest.fixture(scope="module")
def family() -> tuple[Any, Any, Any]:
    """A target with random weights, and two drafts that resemble it more and less."""
    target, draft = random_models("qwen3")
    other = copy.deepcopy(draft)
    torch.manual_seed(4)
    with torch.no_grad():
        for weight in other.parameters():
            weight += 0.1 * weight.std().nan_to_num() * torch.randn_like(weight)
    return target, draft, other


@pytest.mark.parametrize("name", ENSEMBLE_POLICIES)
@pytest.mark.parametrize("lookup", [False, True], ids=["models", "models and lookup"])
def test_greedy_output_is_the_targets(
    family: tuple[Any, Any, Any], name: str, lookup: bool
) -> None:
    target, *drafts = family
    gov = govern(
        target,
        [*drafts, "prompt_lookup"][: 2 + lookup],
        policy=ensemble_policy(name, 4, 2 + lookup),
    )
    only_together(gov)
    rows = random_rows(4)
    expected = [plain(target, row, max_new_tokens=40) for row in rows]
    out = gov.generate(**pad_left(rows, 0), max_new_tokens=40, do_sample=False)
    assert_same(out, max(map(len, rows)), expected, 0.0)
    queue = gov.generate_many(rows * 2, batch_size=3, max_new_tokens=40, do_sample=False)
    for text, row, (tokens, _) in zip(queue, rows * 2, expected * 2, strict=True):
        assert text[len(row) :].tolist() == tokens
    assert gov.stats.num_accepted > 0
    assert gov.governor.faults == {}


@pytest.mark.parametrize("setting", SETTINGS.values(), ids=SETTINGS)
def test_with_processors_that_look_at_the_prefix(
    family: tuple[Any, Any, Any], setting: dict[str, Any]
) -> None:
    target, *drafts = family
    gov = govern(target, [*drafts, "prompt_lookup"], policy=ensemble_policy("accept_ascent"))
    only_together(gov)
    row = random_rows(3)[2]
    expected = plain(target, row, max_new_tokens=60, **setting)
    out = gov.generate(**pad_left([row], 0), max_new_tokens=60, do_sample=False, **setting)
    assert_same(out, len(row), [expected], 0.0)


def test_a_member_as_good_as_the_target_gets_the_weight(family: tuple[Any, Any, Any]) -> None:
    target, draft, _ = family
    gov = govern(target, [draft, target], policy=ensemble_policy("accept_ascent"))
    only_together(gov)
    weights = []
    plan = gov.governor.plan

    def watched(*args: Any, **rest: Any) -> Plan:
        found = plan(*args, **rest)
        assert found.weights is not None
        weights.append(found.weights)
        return found

    take_over(gov, "plan", watched)
    for row in random_rows(4):
        gov.generate(**pad_left([row], 0), max_new_tokens=60, do_sample=False)
    np.testing.assert_allclose(weights[0], [[0.5, 0.5]])
    assert weights[-1][0, 1] > 0.7


def test_lengths_and_drafts_that_follow_load_take_the_ensemble_or_a_member(
    family: tuple[Any, Any, Any],
) -> None:
    target, *drafts = family
    section = {"version": 1, "ensemble": {"policy": "accept_ascent"}}
    gov = govern(target, [*drafts, "prompt_lookup"], policy=section)
    seen: set[int] = set()
    gov.session.on_round = lambda stats: seen.update(stats.draft.tolist())
    rows = random_rows(8)
    expected = [plain(target, row, max_new_tokens=80)[0] for row in rows]
    out = gov.generate_many(rows, batch_size=2, max_new_tokens=80, do_sample=False)
    assert [t[len(r) :].tolist() for t, r in zip(out, rows, strict=True)] == expected
    assert 3 in seen and seen & {0, 1}


@pytest.fixture(scope="module")
def sampled(tiny: Any) -> tuple[Any, Any, Any]:
    target = tiny(2, VOCAB, seed=1, spread=0.4)
    return target, noisy(target, 2), noisy(target, 3)


def ensemble_gov(sampled: tuple[Any, Any, Any], name: str, **settings: Any) -> GovernedGenerate:
    target, *drafts = sampled
    gov = govern(target, [*drafts, "prompt_lookup"], policy=ensemble_policy(name, 3), **settings)
    only_together(gov)
    return gov


CASES = {
    "accept_ascent": ("accept_ascent", "temperature", {}),
    "accept_ascent, top-p": ("accept_ascent", "top_p", {}),
    "block": ("accept_ascent", "temperature", {"verification": "block"}),
    "one member at a time": ("metasd", "temperature", {}),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_texts_are_distributed_as_the_targets(sampled: tuple[Any, Any, Any], case: Any) -> None:
    name, warp, settings = case
    gov = ensemble_gov(sampled, name, **settings)
    counts = draw_counts(gov, sampled[0], WARPERS[warp])
    assert counts.sum() >= 200_000
    assert p_value(counts, expected_probs(sampled[0], WARPERS[warp])) > FALSE_ALARM_RATE
    assert gov.stats.num_accepted > 0 and gov.governor.faults == {}


def test_the_others_speak_where_the_only_member_asked_is_silent(
    sampled: tuple[Any, Any, Any],
) -> None:
    target, draft, _ = sampled
    gov = govern(target, [draft, "prompt_lookup"], policy=ensemble_policy("metasd", 3))
    only_together(gov)
    torch.manual_seed(0)
    for prompt in random_rows(8):  # alone in their batch: lookup is asked before it finds anything
        gov.generate(**pad_left([prompt % VOCAB], 0), max_new_tokens=40, do_sample=True, top_k=0)
    assert gov.stats.num_accepted > 0 and gov.governor.faults == {}


@pytest.mark.parametrize("name", ["accept_ascent", "metasd"])
def test_the_others_go_on_where_a_members_context_is_full(
    family: tuple[Any, Any, Any], name: str
) -> None:
    target, draft, other = family
    short = copy.deepcopy(other)
    short.config.max_position_embeddings = 30
    gov = govern(target, [short, draft], policy=ensemble_policy(name))
    only_together(gov)
    lengths: list[int] = []
    gov.session.on_round = lambda stats: lengths.extend(stats.draft_len.tolist())
    row = random_rows(1)[0]
    settings = {"max_new_tokens": 100, "min_new_tokens": 100}
    out = gov.generate(**pad_left([row], 0), do_sample=False, **settings)
    assert_same(out, len(row), [plain(target, row, **settings)], 0.0)
    assert min(lengths[-10:-2]) > 0 and gov.governor.faults == {}


def test_the_governor_hears_of_a_context_that_is_full(family: tuple[Any, Any, Any]) -> None:
    target, draft, other = family
    short = copy.deepcopy(other)
    short.config.max_position_embeddings = 30
    gov = govern(target, [short, draft])
    rooms: list[Any] = []
    plan = gov.governor.plan

    def watched(*args: Any, room: Any, **rest: Any) -> Plan:
        rooms.append(room)
        return plan(*args, room=room, **rest)

    take_over(gov, "plan", watched)
    row = random_rows(1)[0]
    settings = {"max_new_tokens": 100, "min_new_tokens": 100}
    out = gov.generate(**pad_left([row], 0), do_sample=False, **settings)
    assert_same(out, len(row), [plain(target, row, **settings)], 0.0)
    whole = target.config.max_position_embeddings
    assert rooms[0].tolist() == [[30 - len(row) - 1], [whole - len(row) - 1]]
    assert rooms[-1][0, 0] == 0 < rooms[-1][1, 0] and gov.governor.faults == {}


class JudgesByOneMember(Drafts):
    """Mutant: draws from the mixture, but judges the token by one member's distribution."""

    def _draft(self, *args: Any) -> Proposal:
        proposal = super()._draft(*args)
        assert proposal.members is not None
        own = torch.stack([probs[:, 0] for probs in proposal.members.probs], dim=1)
        return replace(proposal, probs=own)


class HearsLookupWhereItWasRight(Drafts):
    """Mutant: prompt lookup has a say only where it names the token that was drawn."""

    def _draft(self, *args: Any) -> Proposal:
        proposal = super()._draft(*args)
        assert proposal.members is not None and proposal.probs is not None
        probs = []
        for place, (q, present) in enumerate(
            zip(proposal.members.probs, proposal.members.present, strict=True)
        ):
            named = q[:, 2].gather(1, proposal.tokens[:, place, None]) * present[:, 2:]
            without = q[:, :2].mean(dim=1)
            probs.append(torch.where(named > 0, proposal.probs[:, place], without))
        return replace(proposal, probs=torch.stack(probs, dim=1))


@pytest.fixture(params=[JudgesByOneMember, HearsLookupWhereItWasRight])
def mutant(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    module = sys.modules["flyball.integrations.hf.assemble"]
    monkeypatch.setattr(module, "Drafts", request.param)
    yield


@pytest.mark.usefixtures("mutant")
def test_mutants_fail_the_same_test(sampled: tuple[Any, Any, Any]) -> None:
    warp = WARPERS["temperature"]
    counts = draw_counts(ensemble_gov(sampled, "equal"), sampled[0], warp)
    assert p_value(counts, expected_probs(sampled[0], warp)) < FALSE_ALARM_RATE


@pytest.mark.parametrize("answer", [np.nan, 2.0, -1.0, "shape", "raise"])
def test_weights_that_are_no_distribution_cost_only_the_drafts(
    family: tuple[Any, Any, Any], answer: Any
) -> None:
    target, *drafts = family
    gov = govern(target, drafts, policy=ensemble_policy("equal"))
    ensemble: Any = gov.governor._ensemble

    def decide(slots: Any, sampled: bool) -> Any:
        if answer == "raise":
            raise RuntimeError("broken")
        if answer == "shape":
            return np.ones((len(slots), 1))
        return np.full((len(slots), 2), answer)

    ensemble._policy.decide = decide
    row = random_rows(1)[0]
    out = gov.generate(**pad_left([row], 0), max_new_tokens=30, do_sample=False)
    assert_same(out, len(row), [plain(target, row, max_new_tokens=30)], 0.0)
    assert gov.governor.faults.keys() == {"ensemble"}


def test_what_makes_no_ensemble_is_refused_in_one_line(tiny: Any) -> None:
    target, draft = tiny(2, 32, seed=1), tiny(1, 32, seed=2)
    sideways: Any = "sideways"
    cases: list[tuple[list[Any], str]] = [
        ([draft, tiny(1, 48, seed=2)], "vocabulary of 32 tokens, but got 48"),
        ([draft, DraftView(draft, image="own")], "draft that sees images .*does not"),
        ([DraftView(draft, image=sideways)], "own, pooled, caption, none, but got 'sideways'"),
    ]
    for drafts, message in cases:
        with pytest.raises(HostError, match=message) as error:
            govern(target, drafts, policy=ensemble_policy("equal"))
        assert "\n" not in str(error.value)


def test_weights_of_the_users_own_have_to_be_a_distribution_over_the_members(
    family: tuple[Any, Any, Any],
) -> None:
    target, *drafts = family
    for weights, message in (
        ([0.5, 0.6], r"ensemble: expected weights of at least 0 that sum to 1, but got"),
        ([1.5, -0.5], r"ensemble: expected weights of at least 0 that sum to 1, but got"),
        ([float("nan"), 1.0], r"ensemble"),
        ([0.2, 0.3, 0.5], r"ensemble: expected 2 weights for as many drafts, but got 3"),
    ):
        section = {"policy": "static", "weights": weights}
        with pytest.raises(PolicyFileError, match=message) as error:
            govern(target, drafts, policy={"version": 1, "ensemble": section})
        assert "\n" not in str(error.value)


def test_one_member_alone_is_no_ensemble(family: tuple[Any, Any, Any]) -> None:
    target, draft, _ = family
    gov = govern(target, [draft], policy=ensemble_policy("accept_ascent"))
    assert gov.governor._ensemble is None
    row = random_rows(1)[0]
    out = gov.generate(**pad_left([row], 0), max_new_tokens=30, do_sample=False)
    assert_same(out, len(row), [plain(target, row, max_new_tokens=30)], 0.0)
