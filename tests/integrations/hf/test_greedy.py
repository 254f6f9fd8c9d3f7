"""Greedy output equals plain batch-1 `generate`, token for token.

In float64 always; in float32 up to near ties: where the target's two best logits lie within 1e-4,
batch shapes may tip the balance. Such a place is logged and the text is compared up to it.
"""

from __future__ import annotations

import copy
import logging
from typing import Any

import pytest
import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    StoppingCriteria,
    StoppingCriteriaList,
)

from flyball.demo.loader import DemoModels, load_demo
from flyball.integrations.hf import GovernedGenerate, govern

DOMAINS = ("code", "prose", "tables")
NEW_TOKENS = 200
TIE = 1e-4
POLICIES: dict[str, dict[str, Any]] = {
    "goodput": {"policy": "goodput"},
    "heuristic": {"policy": "heuristic", "start_draft_len": 5},
}
log = logging.getLogger(__name__)


def pad_left(rows: list[torch.Tensor], pad: int) -> dict[str, torch.Tensor]:
    width = max(len(row) for row in rows)
    ids = torch.stack([torch.cat([row.new_full((width - len(row),), pad), row]) for row in rows])
    mask = torch.stack([(torch.arange(width) >= width - len(row)).long() for row in rows])
    return {"input_ids": ids, "attention_mask": mask}


def plain(model: Any, row: torch.Tensor, **settings: Any) -> tuple[list[int], torch.Tensor]:
    """Plain generate of one unpadded row: new tokens, and the gap between the two best logits."""
    out = model.generate(
        input_ids=row[None],
        attention_mask=torch.ones_like(row)[None],
        do_sample=False,
        return_dict_in_generate=True,
        output_scores=True,
        **settings,
    )
    top = torch.stack(out.scores)[:, 0].topk(2).values
    return out.sequences[0, len(row) :].tolist(), top[:, 0] - top[:, 1]


def assert_same(
    out: torch.Tensor,
    prompt_width: int,
    expected: list[tuple[list[int], torch.Tensor]],
    tie: float,
) -> None:
    for number, (tokens, gap) in enumerate(expected):
        got = out[number, prompt_width:].tolist()
        for place, token in enumerate(tokens):
            if got[place] == token:
                continue
            assert gap[place] < tie, f"row {number}, token {place}: {got[place]} != {token}"
            log.warning("near tie: row %d, token %d, gap %.1e", number, place, gap[place])
            break


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


def random_models(name: str) -> tuple[Any, Any]:
    """Target of an architecture with random weights in float64, and a draft that resembles it."""
    torch.manual_seed(3)
    shape: dict[str, Any] = {"vocab_size": 64, "initializer_range": 0.15, "eos_token_id": 2}
    wide = {
        "hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4,
        "num_key_value_heads": 2, "pad_token_id": 0, "bos_token_id": 1, "num_hidden_layers": 3,
    }  # fmt: skip
    if name == "gpt2":
        config = GPT2Config(n_embd=32, n_layer=3, n_head=4, pad_token_id=0, **shape)
        target = GPT2LMHeadModel(config)
    elif name == "qwen2":
        target = Qwen2ForCausalLM(Qwen2Config(**wide, **shape))
    else:
        target = Qwen3ForCausalLM(Qwen3Config(head_dim=8, **wide, **shape))
    target = target.double().eval()
    draft = copy.deepcopy(target)
    with torch.no_grad():
        for weight in draft.parameters():
            weight += 0.1 * weight.std().nan_to_num() * torch.randn_like(weight)
    return target, draft


def random_rows(count: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    return [
        torch.randint(3, 64, (4 + 5 * (i % 3) + i,), generator=generator) for i in range(count)
    ]


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


SETTINGS: dict[str, dict[str, Any]] = {
    "repetition penalty": {"repetition_penalty": 1.4},
    "no repeated n-grams": {"no_repeat_ngram_size": 2},
    "least length": {"min_new_tokens": 50},
    "bad words": {"bad_words_ids": [[5], [7, 9]]},
    "forced end": {"forced_eos_token_id": 2},
    "allowed by prefix": {
        "prefix_allowed_tokens_fn": lambda row, ids: list(range(2 + (len(ids) + row) % 3, 64, 3))
    },
}


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
