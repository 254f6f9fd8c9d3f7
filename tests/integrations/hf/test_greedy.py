"""Greedy output equals plain batch-1 `generate`, token for token.

In float64 always; in float32 up to near ties: where the target's two best logits lie within 1e-4,
batch shapes may tip the balance. Such a place is logged and the text is compared up to it.
"""

from __future__ import annotations

import copy
import functools
from typing import Any

import pytest
import torch
from hf_texts import (
    SETTINGS,
    assert_same,
    pad_left,
    plain,
    random_models,
    random_rows,
    shuffle_drafts,
)
from transformers import StoppingCriteria, StoppingCriteriaList

from flyball.demo.loader import DemoModels, load_demo
from flyball.integrations.hf import GovernedGenerate, govern
from flyball.integrations.hf.cache import RowCache

DOMAINS = ("code", "prose", "tables")
NEW_TOKENS = 200
TIE = 1e-4
POLICIES: dict[str, dict[str, Any]] = {
    "goodput": {"policy": "goodput"},
    "heuristic": {"policy": "heuristic", "start_draft_len": 5},
}


@pytest.fixture(scope="module", params=["float64", "float32"])
def demo(request: pytest.FixtureRequest) -> DemoModels:
    return load_demo(request.param)


@pytest.fixture(scope="module")
def governed(demo: DemoModels) -> dict[str, GovernedGenerate]:
    return {
        name: govern(demo.target, drafts=[demo.draft], policy={"version": 1, "length": section})
        for name, section in POLICIES.items()
    }


@pytest.mark.parametrize("domain", DOMAINS)
def test_demo_models(demo: DemoModels, governed: dict[str, GovernedGenerate], domain: str) -> None:
    rows = [torch.tensor(demo.tokenizer(text)["input_ids"]) for text in demo.prompts[domain][:8]]
    assert len({len(row) for row in rows}) > 1
    expected = [plain(demo.target, row, max_new_tokens=NEW_TOKENS) for row in rows]
    assert sum(len(tokens) for tokens, _ in expected) > 6 * NEW_TOKENS
    tie = 0.0 if demo.target.dtype == torch.float64 else TIE
    for gov in governed.values():
        for batch_size in (1, 3, 8):
            inputs = pad_left(rows[:batch_size], 0)
            out = demo.target.generate(
                **inputs, max_new_tokens=NEW_TOKENS, do_sample=False, custom_generate=gov
            )
            assert_same(out, inputs["input_ids"].shape[1], expected[:batch_size], tie)


@pytest.mark.parametrize("name", ["gpt2", "qwen2", "qwen3"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_other_architectures(name: str, attention: str) -> None:
    target, draft = random_models(name)
    target.set_attn_implementation(attention)
    draft.set_attn_implementation(attention)
    rows = random_rows(8)
    expected = [plain(target, row, max_new_tokens=NEW_TOKENS) for row in rows]
    for section in POLICIES.values():
        gov = govern(target, drafts=[draft], policy={"version": 1, "length": section})
        for batch_size in (1, 3, 8):
            inputs = pad_left(rows[:batch_size], 0)
            out = target.generate(
                **inputs, max_new_tokens=NEW_TOKENS, do_sample=False, custom_generate=gov
            )
            assert_same(out, inputs["input_ids"].shape[1], expected[:batch_size], 0.0)


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("batch_size", [1, 4])
def test_processors_see_each_positions_own_prefix(
    settings: dict[str, Any], batch_size: int
) -> None:
    target, draft = random_models("qwen2")
    inputs = pad_left(random_rows(batch_size), 0)
    expected = target.generate(**inputs, max_new_tokens=60, do_sample=False, **settings)
    for section in POLICIES.values():
        gov = govern(target, drafts=[draft], policy={"version": 1, "length": section})
        out = target.generate(
            **inputs, max_new_tokens=60, do_sample=False, custom_generate=gov, **settings
        )
        assert out.tolist() == expected.tolist()


DRAFTS: dict[str, Any] = {
    "none": lambda draft: [],
    "lookup": lambda draft: ["prompt_lookup"],
    "model and lookup": lambda draft: [draft, "prompt_lookup"],
    "two models and lookup": lambda draft: [draft, copy.deepcopy(draft), "prompt_lookup"],
}


@pytest.mark.parametrize("drafts", DRAFTS.values(), ids=DRAFTS)
@pytest.mark.parametrize("settings", [{}, *SETTINGS.values()], ids=["plain", *SETTINGS])
@pytest.mark.parametrize("batch_size", [1, 5])
def test_drafts_that_change_from_round_to_round(
    drafts: Any, settings: dict[str, Any], batch_size: int
) -> None:
    target, draft = random_models("qwen2")
    inputs = pad_left(random_rows(batch_size), 0)
    expected = target.generate(**inputs, max_new_tokens=60, do_sample=False, **settings)
    for shuffled in (False, True):
        gov = govern(target, drafts(draft))
        if shuffled:
            shuffle_drafts(gov, 6)
        out = gov.generate(**inputs, max_new_tokens=60, do_sample=False, **settings)
        assert out.tolist() == expected.tolist()


def test_lookup_and_model_on_real_text(demo: DemoModels) -> None:
    rows = [torch.tensor(demo.tokenizer(demo.prompts[d][0])["input_ids"]) for d in DOMAINS]
    expected = [plain(demo.target, row, max_new_tokens=NEW_TOKENS) for row in rows]
    gov = govern(demo.target, [demo.draft, "prompt_lookup"])
    drafted = [0, 0]
    gov.session.on_round = lambda stats: [
        drafted.__setitem__(d, drafted[d] + int(k))
        for d, k in zip(stats.draft.tolist(), stats.draft_len.tolist(), strict=True)
    ]
    inputs = pad_left(rows, 0)
    out = gov.generate(**inputs, max_new_tokens=NEW_TOKENS, do_sample=False)
    tie = 0.0 if demo.target.dtype == torch.float64 else TIE
    assert_same(out, inputs["input_ids"].shape[1], expected, tie)
    assert min(drafted) > 0  # both were used
    assert gov.stats.num_accepted > 100


def test_buffers_that_must_grow_all_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    target, draft = random_models("qwen2")
    rows = random_rows(4)
    expected = [plain(target, row, max_new_tokens=150) for row in rows]
    gov = govern(target, [draft, "prompt_lookup"])
    monkeypatch.setattr(RowCache, "__init__", functools.partialmethod(tiny_cache))
    out = gov.generate(**pad_left(rows, 0), max_new_tokens=150, do_sample=False)
    assert_same(out, max(len(row) for row in rows), expected, 0.0)


make_cache = RowCache.__init__


def tiny_cache(cache: RowCache, model: Any, num_rows: int, capacity: int, *rest: int) -> None:
    make_cache(cache, model, num_rows, 1, *rest)


class EndsAfterToken(StoppingCriteria):
    """A caller's own criterion: rows end after one of some tokens."""

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        return torch.isin(input_ids[:, -1], torch.arange(30, 34))


@pytest.mark.parametrize("eos", [2, None])
def test_every_kind_of_ending_equals_plain_generate(eos: int | None) -> None:
    target, draft = random_models("qwen2")
    target.generation_config.eos_token_id = eos
    gov = govern(target, drafts=[draft], policy={"version": 1, "length": POLICIES["heuristic"]})
    inputs = pad_left(random_rows(4), 0)
    for settings in (
        {"max_new_tokens": 1},
        {"max_new_tokens": 37},
        {"max_length": inputs["input_ids"].shape[1] + 9},
        {"max_new_tokens": 90, "stopping_criteria": StoppingCriteriaList([EndsAfterToken()])},
    ):
        expected = target.generate(**inputs, do_sample=False, **settings)
        out = target.generate(**inputs, do_sample=False, custom_generate=gov, **settings)
        assert out.tolist() == expected.tolist()


def test_a_draft_with_a_shorter_context_stops_drafting_there() -> None:
    target, draft = random_models("gpt2")
    short = copy.deepcopy(draft)
    short.config.max_position_embeddings = 40
    short.transformer.wpe.weight.data = short.transformer.wpe.weight.data[:40]
    gov = govern(target, drafts=[short], policy={"version": 1, "length": POLICIES["heuristic"]})
    rows = random_rows(3)
    expected = [plain(target, row, max_new_tokens=70) for row in rows]
    out = target.generate(
        **pad_left(rows, 0), max_new_tokens=70, do_sample=False, custom_generate=gov
    )
    assert_same(out, max(len(row) for row in rows), expected, 0.0)


def test_return_sequences_and_dictionary() -> None:
    target, draft = random_models("qwen2")
    gov = govern(target, drafts=[draft])
    inputs = pad_left(random_rows(2), 0)
    settings: dict[str, Any] = {
        **inputs, "max_new_tokens": 20, "return_dict_in_generate": True, "output_scores": True,
        "output_logits": True, "min_new_tokens": 20, "do_sample": False,
    }  # fmt: skip
    expected = target.generate(**settings)
    out = target.generate(**settings, custom_generate=gov)
    assert out.sequences.tolist() == expected.sequences.tolist()
    for ours, theirs in ((out.scores, expected.scores), (out.logits, expected.logits)):
        torch.testing.assert_close(torch.stack(ours), torch.stack(theirs), rtol=1e-5, atol=1e-5)
    torch.manual_seed(0)
    sampled = target.generate(
        **inputs, max_new_tokens=8, do_sample=True, num_return_sequences=3, custom_generate=gov
    )
    assert len(sampled) == 6
