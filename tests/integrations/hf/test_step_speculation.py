"""Steps by a small model that a large one rewrites where they score too low."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from candidate_texts import fresh_logits
from hf_texts import random_models, random_rows

from flyball.controller.errors import HostError
from flyball.integrations.hf.implicit_reward import ImplicitRewardModel
from flyball.integrations.hf.scorers import MeanLogProb, Partial
from flyball.integrations.hf.step_speculation import StepSpeculation, lossy_step_speculation

STEP_ENDS = list(range(3, 20))
PROMPT = random_rows(2)[1]


def speculate(scorer: Any, threshold: float, **settings: Any) -> StepSpeculation:
    large, small = random_models("qwen3")
    settings = {"step_token_ids": STEP_ENDS, "max_new_tokens": 60, **settings}
    return lossy_step_speculation(large, small, scorer, threshold, PROMPT, **settings)


def greedy(model: Any, tokens: np.ndarray, end: int, stops: list[int]) -> np.ndarray:
    """One step by full forwards."""
    while len(tokens) < end:
        tokens = np.append(tokens, int(fresh_logits(model, tokens)[-1].argmax()))
        if tokens[-1] in stops:
            break
    return tokens


class Recorded:
    """Scores by a function of the step's number; keeps what it was shown and told to forget."""

    def __init__(self, score: Callable[[int], float]) -> None:
        self._score = score
        self.calls: list[Partial] = []
        self.alive: set[int] = set()

    def __call__(self, partial: Partial) -> Any:
        self.calls.append(partial)
        self.alive |= set(partial.candidate.tolist())
        return np.array([self._score(len(self.calls) - 1)])

    def forget(self, candidates: Any) -> None:
        self.alive -= set(candidates.tolist())


@pytest.mark.parametrize(("threshold", "writer"), [(2.0, 0), (0.0, 1)])
def test_beyond_all_scores_one_model_writes_everything(threshold: float, writer: int) -> None:
    expected = random_models("qwen3")[writer].generate(
        PROMPT[None], max_new_tokens=60, do_sample=False, eos_token_id=2
    )[0]
    result = speculate(lambda partial: [1.0], threshold, eos_token_ids=[2])
    assert result.tokens.tolist() == expected.tolist()
    count = len(expected) - len(PROMPT)
    if writer == 0:
        assert result.num_accepted == 0
        assert result.num_large == count
    else:
        assert (result.num_rewritten, result.num_large, result.num_small) == (0, 0, count)


@pytest.mark.parametrize("name", ["gpt2", "qwen2"])
def test_steps_are_those_of_full_forwards(name: str) -> None:
    large, small = random_models(name)
    scorer = Recorded(lambda step: [0.9, 0.1, np.nan, 0.5][step % 4])
    result = lossy_step_speculation(
        large, small, scorer, 0.5, PROMPT[None], step_token_ids=STEP_ENDS, max_new_tokens=60
    )
    text, end = PROMPT.numpy(), len(PROMPT) + 60
    written, kept, parent = [0, 0], [0, 0], -1
    for step, call in enumerate(scorer.calls):
        proposed = greedy(small, text, end, STEP_ENDS)
        assert (call.candidate[0], call.parent[0]) == (step, parent)
        assert call.tokens[0].tolist() == proposed.tolist()
        assert call.finished[0] == (len(proposed) == end)
        assert len(call.log_prob[0]) == len(call.entropy[0]) == len(proposed) - len(PROMPT)
        written[0] += len(proposed) - len(text)
        if step % 4 in (0, 3):
            kept[0] += 1
            text, parent = proposed, step
        else:
            kept[1] += 1
            rewritten = greedy(large, text, end, STEP_ENDS)
            written[1] += len(rewritten) - len(text)
            text = rewritten
    assert result.tokens.tolist() == text.tolist()
    assert len(result.tokens) == end
    assert [result.num_accepted, result.num_rewritten] == kept
    assert min(kept) > 1
    assert [result.num_small, result.num_large] == written
    assert len(result.scores) == sum(kept)
    assert not scorer.alive


def test_log_probabilities_and_entropies_are_the_writers() -> None:
    large, small = random_models("qwen3")
    scorer = Recorded(lambda step: float(step % 2))
    speculate(scorer, 0.5)
    last = scorer.calls[3]
    first_step = scorer.calls[1].tokens[0]  # begins with the first step, which large rewrote
    rewritten = greedy(large, PROMPT.numpy(), 1000, STEP_ENDS)
    assert first_step[: len(rewritten)].tolist() == rewritten.tolist()
    for model, place in ((large, len(PROMPT)), (small, len(rewritten))):
        log_prob = fresh_logits(model, last.tokens[0][:place])[-1].log_softmax(dim=0)
        number = place - len(PROMPT)
        token = last.tokens[0][place]
        assert last.log_prob[0][number] == pytest.approx(float(log_prob[token]), abs=1e-9)
        entropy = -float((log_prob.exp() * log_prob).sum())
        assert last.entropy[0][number] == pytest.approx(entropy, abs=1e-9)


def test_a_model_judges_as_it_would_every_text_alone() -> None:
    large = random_models("qwen3")[0]
    judge = ImplicitRewardModel(large, mean=True)
    seen: list[tuple[np.ndarray, float]] = []

    def scorer(partial: Partial) -> np.ndarray:
        scores = judge(partial)
        seen.append((partial.tokens[0], float(scores[0])))
        return scores

    result = speculate(scorer, -2.42)
    assert result.num_accepted and result.num_rewritten
    for tokens, score in seen:
        log_probs = fresh_logits(large, tokens).log_softmax(dim=-1).numpy()
        places = np.arange(len(PROMPT), len(tokens))
        assert score == pytest.approx(log_probs[places - 1, tokens[places]].mean(), abs=1e-9)


def test_samples_follow_the_generator_and_the_temperature() -> None:
    def sample(seed: int, temperature: float) -> list[int]:
        generator = torch.Generator().manual_seed(seed)
        scorer = Recorded(lambda step: float(step % 2))
        result = speculate(scorer, 0.5, temperature=temperature, generator=generator)
        return list(result.tokens.tolist())

    assert sample(0, 1.0) == sample(0, 1.0) != sample(1, 1.0)
    assert sample(0, 1e-4) == sample(1, 1e-4) == sample(0, 0.0)


def test_first_sampled_tokens_follow_the_writers_distribution() -> None:
    large, small = random_models("qwen3")
    generator = torch.Generator().manual_seed(0)
    settings: dict[str, Any] = {
        "step_token_ids": [], "max_new_tokens": 1, "temperature": 0.7, "generator": generator
    }  # fmt: skip
    for model, threshold in ((small, 0.0), (large, 2.0)):
        counts = np.zeros(64)
        for _ in range(400):
            result = lossy_step_speculation(
                large, small, lambda partial: np.ones(1), threshold, PROMPT, **settings
            )
            counts[result.tokens[-1]] += 1
        probs = (fresh_logits(model, PROMPT.numpy())[-1] / 0.7).softmax(dim=0).numpy()
        likely = probs * 400 >= 5
        observed, expected = (
            np.append(x[likely], x[~likely].sum()) for x in (counts, probs * 400)
        )
        chi2 = float(((observed - expected) ** 2 / expected).sum())
        free = len(observed) - 1
        # A chi-squared number lies beyond this with a probability of about 1e-5.
        assert chi2 < free + 4.3 * (2 * free) ** 0.5 + 12


def test_texts_end_with_steps_tokens_or_their_end() -> None:
    result = speculate(MeanLogProb(), -9.0, max_steps=2)
    assert result.num_accepted == 2
    assert result.tokens[-1] in STEP_ENDS
    assert len(speculate(MeanLogProb(), -9.0, max_new_tokens=7).tokens) == len(PROMPT) + 7
    end = int(result.tokens[len(PROMPT) + 1])
    ended = speculate(MeanLogProb(), -9.0, eos_token_ids=[end])
    assert ended.tokens[-1] == end
    assert len(speculate(MeanLogProb(), -9.0, max_new_tokens=0).scores) == 0


def test_one_prompt_at_a_time() -> None:
    large, small = random_models("qwen2")
    for wrong in (torch.ones(2, 3, dtype=torch.long), torch.ones(0, dtype=torch.long)):
        with pytest.raises(HostError, match="one prompt"):
            lossy_step_speculation(
                large, small, MeanLogProb(), 0.0, wrong, step_token_ids=[], max_new_tokens=3
            )
