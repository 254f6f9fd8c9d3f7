"""Scorers that are models: caches per candidate change what is read, never a score."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
import torch
from candidate_texts import fresh_logits, partial, searches
from hf_texts import random_models
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    MistralConfig,
    MistralForSequenceClassification,
)

from flyball.controller.errors import HostError
from flyball.integrations.hf.flops import forward_flops, num_weights
from flyball.integrations.hf.implicit_reward import ImplicitRewardModel
from flyball.integrations.hf.reward_model import RewardModel
from flyball.integrations.hf.self_evaluation import SelfEvaluation

WIDE: dict[str, Any] = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4,
    "num_hidden_layers": 2, "initializer_range": 0.15, "pad_token_id": 0,
}  # fmt: skip


def classifier(name: str, num_labels: int = 1) -> Any:
    torch.manual_seed(4)
    if name == "gpt2":
        config = GPT2Config(
            vocab_size=64, n_embd=32, n_layer=2, n_head=4, pad_token_id=0, num_labels=num_labels
        )
        model = GPT2ForSequenceClassification(config)
    elif name == "llama":
        model = LlamaForSequenceClassification(LlamaConfig(num_labels=num_labels, **WIDE))
    elif name == "mistral":
        windowed = MistralConfig(
            num_labels=num_labels, num_key_value_heads=2, sliding_window=8, **WIDE
        )
        model = MistralForSequenceClassification(windowed)
    else:
        model = BertForSequenceClassification(BertConfig(num_labels=num_labels, **WIDE))
    return model.double().eval()


def fresh_rewards(model: Any, texts: list[np.ndarray], marker: tuple[int, ...] = ()) -> np.ndarray:
    outputs = torch.stack([fresh_logits(model, np.append(x, marker).astype(int)) for x in texts])
    two = outputs.shape[1] == 2
    return (outputs[:, 1] - outputs[:, 0] if two else outputs[:, 0]).numpy()


@pytest.mark.parametrize("name", ["gpt2", "llama"])
@pytest.mark.parametrize(
    ("num_labels", "marker", "max_rows"), [(1, (), 64), (2, (), 4), (1, (7, 8), 64)]
)
def test_cached_rewards_equal_fresh_forwards(
    name: str, num_labels: int, marker: tuple[int, ...], max_rows: int
) -> None:
    model = classifier(name, num_labels)
    scorer = RewardModel(model, step_marker=marker, max_rows=max_rows)
    for seed in range(3):
        for call, gone in searches(seed):
            expected = fresh_rewards(model, list(call.tokens), marker)
            np.testing.assert_allclose(scorer(call), expected, rtol=0, atol=1e-9)
            scorer.forget(gone)


@pytest.mark.parametrize("name", ["mistral", "bert"])
def test_models_without_a_plain_cache_read_whole_prefixes(name: str) -> None:
    model = classifier(name, 2)
    scorer = RewardModel(model, max_rows=4)
    num_tokens = 0
    for call, gone in searches(0, 4):
        expected = fresh_rewards(model, list(call.tokens))
        np.testing.assert_allclose(scorer(call), expected, rtol=0, atol=1e-9)
        scorer.forget(gone)
        num_tokens += sum(map(len, call.tokens))
    assert scorer.num_tokens == num_tokens
    assert scorer.flops > 2 * num_tokens * num_weights(model)


def test_a_prefix_is_scored_at_its_last_token_even_if_that_pads() -> None:
    model = classifier("llama")
    text = np.array([5, 6, 7, 0])  # the model's own forward would score token 7
    padded = RewardModel(model)(partial([text], 2))
    hidden = model.model(torch.from_numpy(text)[None]).last_hidden_state[0, -1]
    np.testing.assert_allclose(padded, model.score(hidden).detach().numpy(), atol=1e-9)


def test_the_good_label_may_be_the_first() -> None:
    model, call = classifier("llama", 2), partial([[5, 6, 7]], 2)
    assert RewardModel(model, good_label=0)(call) == -RewardModel(model)(call)


def test_classifiers_of_many_labels_are_refused() -> None:
    with pytest.raises(HostError, match="1 or 2 labels"):
        RewardModel(classifier("llama", 3))


def fresh_log_probs(model: Any, tokens: np.ndarray, prompt_len: int) -> np.ndarray:
    log_probs = fresh_logits(model, tokens).log_softmax(dim=-1).numpy()
    places = np.arange(prompt_len, len(tokens))
    return log_probs[places - 1, tokens[places]]


@pytest.mark.parametrize("name", ["gpt2", "qwen2", "qwen3"])
@pytest.mark.parametrize("max_rows", [3, 64])
def test_cached_likelihoods_equal_fresh_forwards(name: str, max_rows: int) -> None:
    model = random_models(name)[0]
    scorer = ImplicitRewardModel(model, max_rows=max_rows)
    mean = ImplicitRewardModel(model, mean=True, max_rows=max_rows)
    for seed in range(3):
        for call, gone in searches(seed):
            fresh = [
                fresh_log_probs(model, *text)
                for text in zip(call.tokens, call.prompt_len, strict=True)
            ]
            sums = [x.sum() for x in fresh]
            means = [x.mean() if len(x) else np.nan for x in fresh]
            np.testing.assert_allclose(scorer(call), sums, rtol=0, atol=1e-9)
            np.testing.assert_allclose(mean(call), means, rtol=0, atol=1e-9)
            scorer.forget(gone)


def test_long_blocks_are_read_in_several_forwards(monkeypatch: pytest.MonkeyPatch) -> None:
    module = sys.modules["flyball.integrations.hf.candidate_cache"]
    monkeypatch.setattr(module, "_LEAST_WIDTH", 5)
    monkeypatch.setattr(module, "_BLOCK_TOKENS", 40)
    model = random_models("gpt2")[0]
    scorer, asked = ImplicitRewardModel(model), SelfEvaluation(model, [9, 4], 11, 12)
    for call, gone in searches(4):
        answers, sums = [], []
        for tokens, prompt_len in zip(call.tokens, call.prompt_len, strict=True):
            sums.append(fresh_log_probs(model, tokens, prompt_len).sum())
            logits = fresh_logits(model, np.append(tokens, [9, 4]))[-1]
            answers.append(float(logits[[11, 12]].softmax(dim=0)[0]))
        np.testing.assert_allclose(scorer(call), sums, rtol=0, atol=1e-9)
        np.testing.assert_allclose(asked(call), answers, rtol=0, atol=1e-9)
        scorer.forget(gone)


def test_prompts_may_end_where_texts_of_others_go_on() -> None:
    model = random_models("qwen3")[0]
    scorer = ImplicitRewardModel(model)
    for number, (tokens, prompt_len) in enumerate(
        [([3, 4, 5, 6, 7], 2), ([3, 4, 5, 6, 8], 5), ([3, 4, 5, 6, 8, 9], 2)]
    ):
        expected = fresh_log_probs(model, np.array(tokens), prompt_len).sum()
        score = scorer(partial([tokens], prompt_len, candidate=[number], finished=[True]))
        np.testing.assert_allclose(score, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("shared", [False, True])
def test_questions_are_answered_and_leave_no_trace(shared: bool) -> None:
    model = random_models("qwen3")[0]
    question, yes, no = [9, 4], 11, 12
    likelihood = ImplicitRewardModel(model)
    scorer = SelfEvaluation(likelihood.cache if shared else model, question, yes, no)
    for call, gone in searches(1):
        expected, sums = [], []
        for tokens, prompt_len in zip(call.tokens, call.prompt_len, strict=True):
            logits = fresh_logits(model, np.append(tokens, question))[-1]
            expected.append(float(logits[[yes, no]].softmax(dim=0)[0]))
            sums.append(fresh_log_probs(model, tokens, prompt_len).sum())
        np.testing.assert_allclose(scorer(call), expected, rtol=0, atol=1e-9)
        np.testing.assert_allclose(likelihood(call), sums, rtol=0, atol=1e-9)
        scorer.forget(gone)
    assert scorer(partial([], 1)).shape == (0,)


def test_what_was_read_is_not_read_again() -> None:
    scorer = RewardModel(classifier("llama"))
    prompt, rng = np.arange(3, 23), np.random.default_rng(0)
    texts = [np.append(prompt, rng.integers(3, 64, 5)) for _ in range(4)]
    scorer(partial(texts, 20))
    assert scorer.num_tokens == 19 + 4 * 6  # the prompt but for its last token is read once
    scorer(partial(texts, 20))
    assert scorer.num_tokens == 19 + 4 * 6
    texts = [np.append(text, rng.integers(3, 64, 10)) for text in texts]
    scorer(partial(texts, 20))
    assert scorer.num_tokens == 19 + 4 * 16
    fork = np.append(texts[2][:30], [1, 2])
    scorer(partial([fork], 20, candidate=[4], parent=[2]))
    assert scorer.num_tokens == 19 + 4 * 16 + 2
    scorer.forget(np.array([0, 1, 2, 3, 4]))
    scorer(partial([texts[1]], 20, candidate=[9]))  # its row was freed, not emptied
    assert scorer.num_tokens == 19 + 4 * 16 + 2


@pytest.mark.parametrize("max_rows", [1, 2, 3, 64])
def test_texts_that_are_alike_for_a_while_get_the_scores_of_fresh_forwards(max_rows: int) -> None:
    model = random_models("qwen3")[0]
    scorer = ImplicitRewardModel(model, max_rows=max_rows)
    asked = SelfEvaluation(scorer.cache, [9, 4], 11, 12)
    for seed in range(4):
        for call, gone in searches(seed, vocab=5):
            sums, answers = [], []
            for tokens, prompt_len in zip(call.tokens, call.prompt_len, strict=True):
                sums.append(fresh_log_probs(model, tokens, prompt_len).sum())
                logits = fresh_logits(model, np.append(tokens, [9, 4]))[-1]
                answers.append(float(logits[[11, 12]].softmax(dim=0)[0]))
            np.testing.assert_allclose(scorer(call), sums, rtol=0, atol=1e-9)
            np.testing.assert_allclose(asked(call), answers, rtol=0, atol=1e-9)
            scorer.forget(gone)


@pytest.mark.parametrize("mean", [False, True])
def test_beginnings_get_the_scores_of_texts_that_end_there(mean: bool) -> None:
    scorer = ImplicitRewardModel(random_models("qwen2")[0], mean=mean)
    texts = [np.arange(3, 20), np.arange(3, 12)]
    lengths = [np.array([5, 9, 17]), np.array([4, 9])]
    told = scorer.beginnings(partial(texts, [4, 4], finished=[True, True]), lengths)
    every = [text[:end] for text, own in zip(texts, lengths, strict=True) for end in own]
    np.testing.assert_allclose(told, scorer(partial(every, 4)), rtol=0, atol=1e-9)


def test_what_texts_have_in_common_is_read_once() -> None:
    scorer = ImplicitRewardModel(random_models("qwen2")[0])
    scorer(partial([[3, 4, 5, 6, 7]] * 3, 3))
    assert scorer.num_tokens == 4
    scorer(partial([[3, 4, 5, 6, 7, 8, 9], [3, 4, 5, 6, 7, 8, 9], [3, 4, 5, 6, 7, 9, 8]], 3))
    assert scorer.num_tokens == 4 + 2 + 2
    # A candidate that is behind has nothing to read, and who went ahead goes on.
    scorer(partial([[3, 4, 5, 6, 7, 8]], 3, candidate=[3]))
    scorer(partial([[3, 4, 5, 6, 7, 8, 9, 9]], 3))
    assert scorer.num_tokens == 4 + 2 + 2 + 1


def test_likelihoods_read_each_token_once() -> None:
    scorer = ImplicitRewardModel(random_models("qwen2")[0])
    text = np.arange(3, 40)
    for length in (10, 11, 25, 37):
        scorer(partial([text[:length]], 10))
        assert scorer.num_tokens == length - 1


def test_operations_are_those_of_the_tokens_that_were_read() -> None:
    model = classifier("llama")
    scorer, text = RewardModel(model), np.arange(3, 40)
    for length in (10, 12, 37):
        scorer(partial([text[:length]], 5))
    assert scorer.flops == pytest.approx(forward_flops(model, 37, 0), rel=1e-12)


@pytest.mark.parametrize("tied", [False, True])
def test_weights_that_multiply_are_counted_once(tied: bool) -> None:
    model = LlamaForCausalLM(LlamaConfig(tie_word_embeddings=tied, **WIDE))
    lookup = 0 if tied else 64 * 32
    assert num_weights(model) == model.num_parameters() - lookup
    # One token sees itself alone.
    attention = 4 * 2 * 32
    assert forward_flops(model, 1, 0) == 2 * num_weights(model) + attention
    both = forward_flops(model, np.array([1, 2]), np.array([0, 5]))
    assert both == forward_flops(model, 1, 0) + forward_flops(model, 2, 5)


def test_a_failed_forward_spoils_no_later_score(monkeypatch: pytest.MonkeyPatch) -> None:
    model = random_models("qwen2")[0]
    scorer, text = ImplicitRewardModel(model), np.arange(3, 40)
    scorer(partial([text[:12]], 10))
    with monkeypatch.context() as patch:
        patch.setattr(scorer.cache._cached, "forward", lambda *args, **kwargs: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            scorer(partial([text[:20]], 10))
    expected = fresh_log_probs(model, text, 10).sum()
    np.testing.assert_allclose(scorer(partial([text], 10)), expected, rtol=0, atol=1e-9)
