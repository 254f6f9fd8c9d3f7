"""Recorded matches against plain transformers, and walks over them against governed runs.

In float64, where no near tie falls differently in another batch.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LogitsProcessorList, PreTrainedModel
from transformers.generation import logits_process

sys.path.insert(0, str(Path(__file__).parents[3]))

from benchmarks.length_run import walk_policy, walk_static
from benchmarks.length_streams import Costs
from benchmarks.length_traces import stream_of

from flyball.controller.errors import HostError
from flyball.controller.match_text import MatchText
from flyball.demo.loader import DemoModels, load_demo
from flyball.integrations.hf import exact_read, govern
from flyball.integrations.hf.exact import FinishedText, RecordSettings, record_matches

DOMAINS = ("code", "prose", "tables")
NUM_AHEAD = 16
COSTS = Costs(0.001, 0.0)


@pytest.fixture(scope="module")
def demo() -> DemoModels:
    models = load_demo("float64")
    for model in (models.target, models.draft):  # a draft goes on behind an end token
        model.generation_config.eos_token_id = None
    return models


def finish(demo: DemoModels, domain: str, number: int, num_tokens: int) -> FinishedText:
    prompt = demo.tokenizer(demo.prompts[domain][number], return_tensors="pt")["input_ids"]
    text = demo.target.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        do_sample=False,
        max_new_tokens=num_tokens,
    )
    return FinishedText(text[0].numpy(), prompt.shape[1], domain)


@pytest.fixture(scope="module")
def finished(demo: DemoModels) -> list[FinishedText]:
    sizes = (40, 25, 60)
    return [finish(demo, domain, 3, n) for domain, n in zip(DOMAINS, sizes, strict=True)]


@pytest.fixture(scope="module")
def found(demo: DemoModels, finished: list[FinishedText]) -> list[MatchText]:
    return record_matches(demo.target, demo.draft, finished)


@torch.no_grad()
def scores_at(model: PreTrainedModel, text: FinishedText, position: int) -> torch.Tensor:
    prefix = torch.from_numpy(text.tokens[: text.prompt_len + position])
    scores: torch.Tensor = model(prefix[None], use_cache=False).logits[0, -1].float()
    return scores


def test_positions_are_what_a_plain_forward_over_each_prefix_says(
    demo: DemoModels, finished: list[FinishedText], found: list[MatchText]
) -> None:
    for text, got in zip(finished[:2], found[:2], strict=True):
        assert (got.domain, got.prompt_len) == (text.domain, text.prompt_len)
        assert got.tokens.tolist() == text.generated.tolist()
        for position, token in enumerate(text.generated.tolist()):
            p = scores_at(demo.target, text, position).log_softmax(dim=0)
            q = scores_at(demo.draft, text, position).log_softmax(dim=0)
            assert got.match[position] == float(q.argmax() == token)
            expected = [p[token], q[token], q.max().exp(), -(q.exp() * q).sum()]
            names = ("target_log_p", "draft_log_p", "confidence", "entropy")
            values = [getattr(got, name)[position] for name in names]
            np.testing.assert_allclose(values, expected, atol=1e-5)
    assert 0.2 < np.concatenate([text.match for text in found]).mean() < 0.95


def test_ahead_is_what_a_draft_sees_that_is_never_stopped(
    demo: DemoModels, finished: list[FinishedText], found: list[MatchText]
) -> None:
    beyond = 0
    for text, got in zip(finished, found, strict=True):
        starts = np.array([0, 1, 5, 6, 7, len(got.tokens) // 2, len(got.tokens) - 1])
        confidence, entropy = got.ahead(starts)
        for row, start in enumerate(starts.tolist()):
            prefix = torch.from_numpy(text.tokens[: text.prompt_len + start])[None]
            out = demo.draft.generate(
                prefix,
                attention_mask=torch.ones_like(prefix),
                do_sample=False,
                max_new_tokens=NUM_AHEAD,
                return_dict_in_generate=True,
                output_scores=True,
            )
            q = torch.stack(out.scores)[:, 0].float().softmax(dim=-1)
            np.testing.assert_allclose(confidence[row], q.amax(dim=-1), atol=1e-5)
            spread = torch.special.entr(q).sum(dim=-1)
            np.testing.assert_allclose(entropy[row], spread, atol=1e-5)
            proposed = out.sequences[0, prefix.shape[1] :].numpy()
            rest = got.tokens[start : start + NUM_AHEAD]
            same = np.cumprod(proposed[: len(rest)] == rest).sum()
            assert same == np.cumprod(got.match[start : start + NUM_AHEAD]).sum()
            beyond += same < NUM_AHEAD - 1
    assert beyond > 5  # off the text


def governed(
    demo: DemoModels, domain: str, number: int, section: dict[str, Any], **settings: Any
) -> tuple[FinishedText, list[int], list[int]]:
    """A governed text with the tokens and the draft length of each round."""
    tokens: list[int] = []
    lengths: list[int] = []

    def note(stats: Any) -> None:
        tokens.append(stats.num_tokens)
        lengths.append(int(stats.draft_len[0]))

    prompt = demo.tokenizer(demo.prompts[domain][number], return_tensors="pt")["input_ids"]
    policy = {"version": 1, "length": section}
    with govern(demo.target, [demo.draft], policy=policy, on_round=note) as gov:
        text = gov.generate(
            prompt, attention_mask=torch.ones_like(prompt), do_sample=False, **settings
        )
    limit = settings["max_new_tokens"]
    return FinishedText(text[0].numpy(), prompt.shape[1], domain, limit), tokens, lengths


@pytest.mark.parametrize("draft_len", [0, 1, 4, 16])
@pytest.mark.parametrize("domain", DOMAINS)
def test_a_virtual_static_length_goes_the_way_of_a_governed_run(
    demo: DemoModels, domain: str, draft_len: int
) -> None:
    section = {"policy": "static", "draft_len": draft_len}
    text, tokens, lengths = governed(demo, domain, 0, section, max_new_tokens=90)
    stream = stream_of(domain, record_matches(demo.target, demo.draft, [text]))
    walked = walk_static(stream, COSTS, draft_len)
    assert walked.tokens.tolist() == tokens
    np.testing.assert_allclose(walked.seconds, COSTS.round_s(np.array(lengths, float)))


def test_a_text_that_ended_by_itself_is_walked_as_it_was_decoded(demo: DemoModels) -> None:
    plain, _, _ = governed(
        demo, "code", 1, {"policy": "static", "draft_len": 4}, max_new_tokens=60
    )
    end = int(plain.generated[33])
    section = {"policy": "static", "draft_len": 5}
    text, tokens, lengths = governed(
        demo, "code", 1, section, max_new_tokens=60, eos_token_id=end, pad_token_id=0
    )
    assert 1 < len(text.generated) <= 34
    stream = stream_of("code", record_matches(demo.target, demo.draft, [text]))
    assert (stream.ends[0] + 1, stream.limits[0] + 1) == (len(text.generated), 60)
    walked = walk_static(stream, COSTS, 5)
    assert walked.tokens.tolist() == tokens
    np.testing.assert_allclose(walked.seconds, COSTS.round_s(np.array(lengths, float)))


@pytest.mark.parametrize("domain", DOMAINS)
def test_a_virtual_stop_rule_goes_the_way_of_a_governed_run(demo: DemoModels, domain: str) -> None:
    section = {"policy": "threshold", "min_confidence": 0.55, "max_draft_len": 16}
    text, tokens, lengths = governed(demo, domain, 2, section, max_new_tokens=120)
    assert len(set(lengths)) > 2
    stream = stream_of(domain, record_matches(demo.target, demo.draft, [text]))
    walked = walk_policy(stream, COSTS, {"version": 1, "length": section})
    assert walked.tokens.tolist() == tokens
    np.testing.assert_allclose(walked.seconds, COSTS.round_s(np.array(lengths, float)))


def test_under_sampling_the_match_is_the_probability_of_acceptance(demo: DemoModels) -> None:
    torch.manual_seed(0)
    prompt = demo.tokenizer(demo.prompts["prose"][0], return_tensors="pt")["input_ids"]
    out = demo.target.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        do_sample=True,
        temperature=0.8,
        top_k=12,
        max_new_tokens=30,
    )
    text = FinishedText(out[0].numpy(), prompt.shape[1])
    warpers = LogitsProcessorList(
        [logits_process.TemperatureLogitsWarper(0.8), logits_process.TopKLogitsWarper(12)]
    )
    settings = RecordSettings(sampled=True, processors=warpers)
    (got,) = record_matches(demo.target, demo.draft, [text], settings)
    assert got.tail_confidence.shape == (0, 15)
    for position, token in enumerate(text.generated.tolist()):
        p, q = (
            warpers(prompt, scores_at(model, text, position)[None])[0].softmax(dim=0)
            for model in (demo.target, demo.draft)
        )
        assert got.match[position] == pytest.approx(min(1.0, float(q[token] / p[token])), abs=1e-5)
        assert got.confidence[position] == pytest.approx(float(q.max()), abs=1e-5)
    assert len(set(got.match.tolist())) > 10
    with pytest.raises(HostError, match="pass the processors it was sampled with"):
        few = LogitsProcessorList([logits_process.TopKLogitsWarper(1)])
        settings = dataclasses.replace(settings, processors=few)
        record_matches(demo.target, demo.draft, [text], settings)


def test_batches_and_blocks_of_any_size_say_the_same(
    demo: DemoModels,
    finished: list[FinishedText],
    found: list[MatchText],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for batch_size, max_logits in ((1, 2**26), (2, 2**14), (7, 2**11)):
        monkeypatch.setattr(exact_read, "MAX_LOGITS", max_logits)
        settings = RecordSettings(batch_size=batch_size)
        again = record_matches(demo.target, demo.draft, finished, settings)
        for one, other in zip(again, found, strict=True):
            for field in dataclasses.fields(MatchText):
                values = [getattr(text, field.name) for text in (one, other)]
                if isinstance(values[0], np.ndarray):
                    np.testing.assert_allclose(*values, atol=1e-5)
                else:
                    assert values[0] == values[1]


def test_what_cannot_be_recorded_is_refused_in_one_line(
    tiny: Callable[..., PreTrainedModel], demo: DemoModels
) -> None:
    model = tiny(1, 16, 0)
    tokens = np.arange(1, 9)

    def refused(text: FinishedText, expected: str, **settings: Any) -> None:
        with pytest.raises(HostError, match=expected) as caught:
            record_matches(model, model, [text], RecordSettings(**settings))
        assert "\n" not in str(caught.value)

    good = FinishedText(tokens, 3)
    refused(FinishedText(tokens, 0), "text 0 has 8 tokens, 0 of them prompt; leave it out")
    refused(FinishedText(tokens, 8), "text 0 has 8 tokens, 8 of them prompt")
    refused(FinishedText(tokens + 8, 3), "expected token ids from 0 to 15")
    refused(FinishedText(tokens, 3, limit=4), "expected a limit of at least the 5 tokens")
    refused(good, "expected num_ahead and batch_size of at least 1", num_ahead=0)
    penalty = LogitsProcessorList([logits_process.RepetitionPenaltyLogitsProcessor(1.2)])
    refused(good, "but got RepetitionPenaltyLogitsProcessor", processors=penalty)
    context = model.config.max_position_embeddings
    refused(FinishedText(np.ones(context + 1, np.int64), 3), f"of at most {context} tokens")
    with pytest.raises(HostError, match="expected a draft with the target's vocabulary"):
        record_matches(model, demo.draft, [good])
    assert record_matches(model, model, []) == []
