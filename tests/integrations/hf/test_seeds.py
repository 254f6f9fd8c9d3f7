"""Texts with seeds: what a text becomes hangs on prompt, seed and settings, and on nothing else.

Texts are compared with stock sampling of each prompt alone, whose draws are replaced by the noisy
argmax, in float64 models.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from ensemble_calls import ensemble_policy, only_together, take_over
from hf_texts import random_models, random_rows, shuffle_drafts

from flyball.controller.errors import HostError
from flyball.controller.governor import Plan
from flyball.integrations.hf import GovernedGenerate, govern
from flyball.kernels.philox import token_noise

NEW_TOKENS = 40
SEEDS = [0, 1, 7, 2**32, 2**63, 2**64 - 1, 12345, 7]
POLICIES: dict[str, Any] = {
    **{
        f"length {n}": {"version": 1, "length": {"policy": "static", "draft_len": n}}
        for n in (0, 4, 8)
    },
    "default": None,
}
DRAFTS: dict[str, Any] = {
    "none": lambda draft: [],
    "model": lambda draft: [draft],
    "lookup": lambda draft: ["prompt_lookup"],
    "model and lookup": lambda draft: [draft, "prompt_lookup"],
    "two models": lambda draft: [draft, copy.deepcopy(draft)],
}
SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {"top_k": 0},
    "top_k": {"top_k": 5},
    "top_p": {"top_k": 0, "top_p": 0.8},
    "temperature": {"top_k": 0, "temperature": 0.6},
    "repetition penalty": {"top_k": 0, "repetition_penalty": 1.4},
    "no repeated n-grams": {"top_k": 7, "no_repeat_ngram_size": 2},
}


@pytest.fixture(scope="module")
def pair() -> tuple[Any, Any]:
    target, draft = random_models("qwen2")
    return target, draft


def stock(target: Any, row: torch.Tensor, seed: int, **settings: Any) -> list[int]:
    """Stock sampling of one prompt, the t-th draw of which is the argmax with noise (seed, t)."""
    seeds = torch.from_numpy(np.array([seed], np.uint64).view(np.int64))
    index = torch.zeros(1, 1, dtype=torch.long)

    def draw(probs: torch.Tensor, num_samples: int) -> torch.Tensor:
        noise = token_noise(seeds, index, probs.shape[1])[:, 0]
        index.add_(1)
        return (probs.log() + noise).argmax(dim=-1, keepdim=True)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "multinomial", draw)
        out = target.generate(row[None], do_sample=True, max_new_tokens=NEW_TOKENS, **settings)
    return out[0].tolist()


@pytest.fixture(scope="module")
def expected(pair: tuple[Any, Any]) -> dict[str, list[list[int]]]:
    """Texts of all prompts with each of the settings."""
    return {
        name: [
            stock(pair[0], row, seed, **setting)
            for row, seed in zip(random_rows(8), SEEDS, strict=True)
        ]
        for name, setting in SETTINGS.items()
    }


def drawn(gov: GovernedGenerate, batch_size: int, **settings: Any) -> list[list[int]]:
    out = gov.generate_many(
        random_rows(8),
        seeds=SEEDS,
        batch_size=batch_size,
        do_sample=True,
        max_new_tokens=NEW_TOKENS,
        **settings,
    )
    assert gov.governor.faults == {}
    return [text.tolist() for text in out]


@pytest.mark.parametrize("drafts", DRAFTS.values(), ids=DRAFTS)
@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
def test_texts_do_not_depend_on_drafts_lengths_and_batches(
    pair: tuple[Any, Any], expected: dict[str, list[list[int]]], policy: Any, drafts: Any
) -> None:
    gov = govern(pair[0], drafts(pair[1]), policy=policy)
    for batch_size in (1, 3, 8):
        assert drawn(gov, batch_size, **SETTINGS["plain"]) == expected["plain"]


@pytest.mark.parametrize("name", SETTINGS)
def test_with_settings_that_shape_the_distribution(
    pair: tuple[Any, Any], expected: dict[str, list[list[int]]], name: str
) -> None:
    gov = govern(pair[0], [pair[1], "prompt_lookup"])
    shuffle_drafts(gov, 6)
    assert drawn(gov, 3, **SETTINGS[name]) == expected[name]
    assert gov.stats.num_accepted > 0


@pytest.mark.parametrize("name", ["accept_ascent", "metasd", "equal"])
@pytest.mark.parametrize("lookup", [False, True], ids=["models", "models and lookup"])
def test_with_an_ensemble(
    pair: tuple[Any, Any], expected: dict[str, list[list[int]]], name: str, lookup: bool
) -> None:
    target, draft = pair
    drafts = [draft, copy.deepcopy(draft), "prompt_lookup"][: 2 + lookup]
    gov = govern(target, drafts, policy=ensemble_policy(name, 4, 2 + lookup))
    only_together(gov)
    for setting in ("plain", "repetition penalty"):
        assert drawn(gov, 3, **SETTINGS[setting]) == expected[setting]
    assert gov.stats.num_accepted > 0


def test_members_are_told_whether_they_would_have_drawn_the_targets_token(
    pair: tuple[Any, Any],
) -> None:
    target, draft = pair
    gov = govern(target, [draft, target], policy=ensemble_policy())
    only_together(gov)
    weigh, told = gov.governor.weigh, []

    def noted(step_id: int, slots: Any, accepted: np.ndarray, *rest: Any) -> None:
        told.append(accepted[~np.isnan(accepted).any(axis=2)])
        weigh(step_id, slots, accepted, *rest)

    take_over(gov, "weigh", noted)
    drawn(gov, 3, top_k=0)
    found = np.concatenate(told)
    assert len(found) > 100
    assert set(found[:, 1]) == {1.0}
    assert set(found[:, 0]) == {0.0, 1.0}


def test_wide_trees_and_blocks_become_chains(
    pair: tuple[Any, Any], expected: dict[str, list[list[int]]]
) -> None:
    gov = govern(pair[0], [pair[1]], tree_width=2)
    assert drawn(gov, 3, **SETTINGS["plain"]) == expected["plain"]
    gov = govern(pair[0], [pair[1]], verification="block")
    assert drawn(gov, 3, **SETTINGS["plain"]) == expected["plain"]


def test_order_repetition_and_texts_that_leave_early(
    pair: tuple[Any, Any], expected: dict[str, list[list[int]]]
) -> None:
    order = [5, 0, 3, 3, 7, 1, 0, 6, 2, 4]
    limits = [3, 40, 12, 1, 40, 7, 25, 40, 18, 2]
    rows, gov = random_rows(8), govern(pair[0], [pair[1], "prompt_lookup"])
    out = gov.generate_many(
        [rows[i] for i in order],
        seeds=np.array([SEEDS[i] for i in order], np.uint64),
        batch_size=4,
        do_sample=True,
        max_new_tokens=limits,
        top_k=0,
    )
    whole = [expected["plain"][i] for i in order]
    ends = [len(rows[i]) + limit for i, limit in zip(order, limits, strict=True)]
    assert [t.tolist() for t in out] == [t[:end] for t, end in zip(whole, ends, strict=True)]


def test_seeds_make_texts_differ_and_leave_torchs_generator_alone(pair: tuple[Any, Any]) -> None:
    gov, row = govern(pair[0], [pair[1]]), random_rows(1)[0]
    torch.manual_seed(0)
    before = torch.get_rng_state()
    out = gov.generate_many([row] * 20, seeds=range(20), do_sample=True, max_new_tokens=20)
    assert len({tuple(text.tolist()) for text in out}) == 20
    assert torch.equal(torch.get_rng_state(), before)


def test_a_draft_as_good_as_the_target_is_never_rejected(pair: tuple[Any, Any]) -> None:
    target = pair[0]
    gov = govern(target, [copy.deepcopy(target)], policy=POLICIES["length 4"])
    out = gov.generate_many(
        random_rows(8),
        seeds=SEEDS,
        do_sample=True,
        max_new_tokens=61,
        suppress_tokens=[2],  # the end token: rounds of 5 tokens then fill the limit
    )
    assert [len(t) - len(r) for t, r in zip(out, random_rows(8), strict=True)] == [61] * 8
    assert gov.stats.num_accepted == gov.stats.num_drafted == 8 * 12 * 4


def test_read_text_tells_what_a_draft_would_have_drawn(pair: tuple[Any, Any]) -> None:
    target, draft = pair
    policy = {"version": 1, "length": {"policy": "goodput"}, "governor": {"follow": "shadows"}}
    gov = govern(target, [draft], policy=policy)
    plan, read = gov.governor.plan, gov.governor.read
    told: list[np.ndarray] = []

    def planned(*args: Any, **rest: Any) -> Plan:
        found = plan(*args, **rest)
        return replace(found, draft_len=np.zeros_like(found.draft_len))

    def noted(slots: Any, match: np.ndarray, *rest: Any) -> None:
        told.append(match[0])
        read(slots, match, *rest)

    take_over(gov, "plan", planned)
    take_over(gov, "read", noted)
    row, settings = random_rows(1)[0], {"do_sample": True, "top_k": 0}
    (text,) = gov.generate_many([row], seeds=[9], max_new_tokens=NEW_TOKENS, **settings)
    with torch.no_grad():
        scores = draft(text[None]).logits[:, len(row) - 1 : -1].float()
    index = torch.arange(len(text) - len(row))[None]
    best = (scores + token_noise(torch.tensor([9]), index, scores.shape[2])).argmax(dim=-1)
    truth = (best[0] == text[len(row) :]).numpy()
    assert 0 < truth.sum() < len(truth)
    place = 0
    for match in told:
        assert match.tolist() == truth[place : place + len(match)].tolist()
        place += len(match) + 1  # the last logits of a read are of a token to come
    assert place > 30


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"seeds": [1]}, "one seed for each of 2 prompts, but got 1"),
        ({"seeds": [1, -1]}, "seeds from 0 to 2\\*\\*64 - 1, but got -1"),
        ({"seeds": [2**64, 1]}, "but got 18446744073709551616"),
        ({"seeds": [1, 2.0]}, "whole numbers as seeds"),
        ({"seeds": 1}, "whole numbers as seeds"),
        ({"seeds": [1, 2], "do_sample": False}, "do_sample=True with seeds"),
    ],
)
def test_mistakes_are_one_line(
    pair: tuple[Any, Any], settings: dict[str, Any], match: str
) -> None:
    settings = {"do_sample": True, "max_new_tokens": 3, **settings}
    with pytest.raises(HostError, match=match) as caught:
        govern(pair[0], [pair[1]]).generate_many([[3], [4]], **settings)
    assert "\n" not in str(caught.value)
