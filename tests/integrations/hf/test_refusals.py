"""What cannot be governed is refused in one line, before anything is generated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BloomConfig,
    BloomForCausalLM,
    GPTNeoConfig,
    GPTNeoForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    StaticCache,
)

from flyball.controller.errors import FlyballError, HostError
from flyball.integrations.hf import govern

PROMPT = torch.tensor([[3, 4, 5]])


@pytest.fixture(scope="module")
def pair(tiny: Any) -> tuple[Any, Any]:
    return tiny(2, 32, seed=1), tiny(1, 32, seed=2)


@pytest.fixture(scope="module")
def gov(pair: tuple[Any, Any]) -> Any:
    return govern(pair[0], [pair[1]])


def refused(match: str, call: Any, *args: Any, **kwargs: Any) -> None:
    with pytest.raises(FlyballError, match=match) as caught:
        call(*args, **kwargs)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"num_beams": 3}, "num_beams=1, but got 3"),
        ({"use_cache": False}, "use_cache=True, but got False"),
        ({"cache_implementation": "static"}, "DynamicCache .*StaticCache"),
        ({"cache_implementation": "offloaded"}, "offloaded"),
        ({"return_dict_in_generate": True, "output_attentions": True}, "output_attentions"),
        ({"guidance_scale": 2.0}, "without state, but got UnbatchedClassifierFree"),
        ({"penalty_alpha": 0.6, "top_k": 4}, "but the settings ask for contrastive_search"),
        ({"attention_mask": torch.tensor([[1, 0, 1]])}, "padded on the left"),
        ({"attention_mask": torch.tensor([[True, True, False]])}, "padded on the left"),
        ({"attention_mask": torch.tensor([[1, 2, 1]])}, "of 0 and 1"),
        ({"position_ids": torch.tensor([[5, 6, 9]])}, "leave position_ids unset"),
        ({"attention_mask": torch.tensor([[1, 1, 0]])}, "padding_side = 'left'"),
        ({"attention_mask": torch.tensor([[0, 0, 0]])}, "all padding"),
    ],
)
def test_calls(pair: tuple[Any, Any], gov: Any, settings: dict[str, Any], match: str) -> None:
    settings = {"attention_mask": torch.ones_like(PROMPT), **settings}
    refused(match, pair[0].generate, PROMPT, max_new_tokens=4, custom_generate=gov, **settings)


def test_an_unknown_verification(pair: tuple[Any, Any]) -> None:
    refused("standard or block, but got 'fast'", govern, *pair[:1], verification="fast")


def test_an_empty_prompt(pair: tuple[Any, Any], gov: Any) -> None:
    empty = torch.zeros(1, 0, dtype=torch.long)
    refused(
        "at least one token", pair[0].generate, empty, attention_mask=empty, max_new_tokens=4,
        custom_generate=gov,
    )  # fmt: skip


@pytest.mark.parametrize("count", [0, -3])
def test_no_new_tokens(pair: tuple[Any, Any], gov: Any, count: int) -> None:
    with pytest.raises(ValueError, match="max_new_tokens") as caught:
        pair[0].generate(PROMPT, max_new_tokens=count, custom_generate=gov)
    assert "\n" not in str(caught.value)


def test_a_cache_that_holds_tokens(pair: tuple[Any, Any], gov: Any) -> None:
    cache = pair[0](PROMPT).past_key_values
    refused(
        "expected no past_key_values", pair[0].generate, torch.tensor([[3, 4, 5, 6]]),
        past_key_values=cache, max_new_tokens=4, custom_generate=gov,
    )  # fmt: skip


def test_a_static_cache_given_by_hand(pair: tuple[Any, Any], gov: Any) -> None:
    cache = StaticCache(config=pair[0].config, max_cache_len=32)
    refused(
        "DynamicCache", pair[0].generate, PROMPT, past_key_values=cache, max_new_tokens=4,
        custom_generate=gov,
    )  # fmt: skip


def test_another_model_than_the_governed_one(pair: tuple[Any, Any], gov: Any) -> None:
    refused("made for another", pair[1].generate, PROMPT, max_new_tokens=4, custom_generate=gov)


def test_models(tiny: Any, pair: tuple[Any, Any]) -> None:
    target, draft = pair
    refused("vocabulary of 32 tokens, but got 16", govern, target, drafts=[tiny(1, 16, seed=0)])
    refused("'prompt_lookup' as draft, but got 'gpt2'", govern, target, drafts=["gpt2"])
    sliding = MistralForCausalLM(
        MistralConfig(vocab_size=32, hidden_size=16, intermediate_size=16, num_hidden_layers=1,
                      num_attention_heads=2, num_key_value_heads=1, sliding_window=4)
    )  # fmt: skip
    refused("full attention .*SlidingWindow", govern, sliding, drafts=[draft])
    alibi = BloomForCausalLM(BloomConfig(vocab_size=32, hidden_size=16, n_layer=1, n_head=2))
    refused("takes position_ids", govern, alibi, drafts=[draft])
    local = GPTNeoForCausalLM(
        GPTNeoConfig(vocab_size=32, hidden_size=16, num_layers=2, num_heads=2, window_size=4,
                     attention_types=[[["global", "local"], 1]])
    )  # fmt: skip
    refused("counts cache columns", govern, local, drafts=[draft])
    stretched = LlamaForCausalLM(
        LlamaConfig(vocab_size=32, hidden_size=16, intermediate_size=16, num_hidden_layers=1,
                    num_attention_heads=2,
                    rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4})
    )  # fmt: skip
    refused("has dynamic scaling", govern, stretched, drafts=[draft])
    both = BartForConditionalGeneration(
        BartConfig(vocab_size=32, d_model=16, encoder_layers=1, decoder_layers=1,
                   encoder_attention_heads=2, decoder_attention_heads=2)
    )  # fmt: skip
    refused("encoder-decoder", govern, both, drafts=[draft])


def test_an_attention_that_was_not_tested(tiny: Any, pair: tuple[Any, Any]) -> None:
    target = tiny(1, 32, seed=1)
    target.config._attn_implementation = "flex_attention"
    refused("sdpa or eager, but got flex_attention", govern, target, drafts=[pair[1]])


def test_a_draft_with_another_tokenizer(tmp_path: Path, tiny: Any) -> None:
    loaded = []
    for name, words in (("target", ["a", "b"]), ("draft", ["b", "a"])):
        tiny(1, 32, seed=1).save_pretrained(tmp_path / name)
        vocabulary = ", ".join(f'"{word}": {i}' for i, word in enumerate(words))
        (tmp_path / name / "tokenizer.json").write_text(
            f'{{"model": {{"vocab": {{{vocabulary}}}}}}}'
        )
        loaded.append(LlamaForCausalLM.from_pretrained(tmp_path / name))
    refused("target's tokenizer", govern, loaded[0], drafts=[loaded[1]])


def test_a_broken_policy_file(tmp_path: Path, pair: tuple[Any, Any]) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text("version: 1\nlength: {polcy: goodput}\n")
    refused("policy.yaml", govern, pair[0], drafts=[pair[1]], policy=path)


def test_a_refused_call_costs_nothing(pair: tuple[Any, Any], gov: Any) -> None:
    with pytest.raises(HostError):
        pair[0].generate(PROMPT, num_beams=2, max_new_tokens=4, custom_generate=gov)
    expected = pair[0].generate(PROMPT, max_new_tokens=9, do_sample=False)
    out = pair[0].generate(PROMPT, max_new_tokens=9, do_sample=False, custom_generate=gov)
    assert out.tolist() == expected.tolist()
