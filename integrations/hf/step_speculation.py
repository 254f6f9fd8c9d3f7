"""A small model writes steps of reasoning, and a large one those that are not good enough."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from flyball.controller.errors import HostError
from flyball.integrations.hf.cached_model import CachedModel
from flyball.integrations.hf.checks import check_drafts, check_model
from flyball.integrations.hf.device import upload
from flyball.integrations.hf.scorers import Partial, Scorer, forget

Longs = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class StepSpeculation:
    """A text that two models wrote.

    Attributes:
        tokens: (length,) prompt and generated tokens.
        num_accepted: steps of the small model that were kept.
        num_rewritten: steps of the large model.
        num_small: tokens that the small model wrote, rejected ones included.
        num_large: tokens that the large model wrote.
        scores: (num_accepted + num_rewritten,) what the small model's steps were scored.
    """

    tokens: Longs
    num_accepted: int
    num_rewritten: int
    num_small: int
    num_large: int
    scores: Floats


def lossy_step_speculation(
    large: PreTrainedModel,
    small: PreTrainedModel,
    scorer: Scorer,
    threshold: float,
    input_ids: torch.Tensor,
    *,
    step_token_ids: Sequence[int],
    max_new_tokens: int,
    eos_token_ids: Sequence[int] = (),
    max_steps: int | None = None,
    temperature: float = 0.0,
    generator: torch.Generator | None = None,
) -> StepSpeculation:
    """Generate step by step with two models.

    The small model writes a step; where its score is at least the threshold it stays, and
    otherwise, or where it has no score, the large model writes the step instead (SpecReason, arXiv
    2504.07891). The text is not the large model's: the threshold trades its quality for time.
    Above every score, the large model writes all of it; below, the small one.

    Args:
        large: decoder-only model.
        small: one with the same token ids, on the same device.
        scorer: of the text with the step; log-probabilities and entropies are those of the models
            that wrote the tokens. With a `GuardedScorer` its faults are rewritten steps.
        threshold: of scores, in the scorer's unit.
        input_ids: (length,) or (1, length) prompt.
        step_token_ids: each of these tokens ends a step.
        max_new_tokens: with which the text ends, in the middle of a step if need be.
        eos_token_ids: each of these tokens ends the text.
        max_steps: with which the text ends; None for any number.
        temperature: of both models; 0 takes the likeliest token.
        generator: to sample with, on the models' device.
    """
    check_model(large, "target")
    check_drafts(large, [small])
    prompt = input_ids.reshape(-1).cpu().numpy().astype(np.int64)
    if input_ids.ndim > 2 or len(prompt) != input_ids.shape[-1] or not len(prompt):
        raise HostError(f"expected one prompt, but got input_ids of {tuple(input_ids.shape)}")
    stops = [*step_token_ids, *eos_token_ids]
    writers = [_Writer(model, stops, temperature, generator) for model in (small, large)]
    text = _Text(prompt, np.zeros(0), np.zeros(0))
    num_kept, num_written, scores, kept = [0, 0], [0, 0], list[float](), -1
    end = len(prompt) + max_new_tokens
    with torch.inference_mode():
        while len(text.tokens) < end and (max_steps is None or len(scores) < max_steps):
            if len(scores) and text.tokens[-1] in eos_token_ids:
                break
            for number, writer in enumerate(writers):
                step = writer.write(text, end)
                num_written[number] += len(step.tokens) - len(text.tokens)
                if number == 0:
                    last = len(step.tokens) == end or step.tokens[-1] in eos_token_ids
                    scores.append(_score(scorer, step, len(scores), kept, len(prompt), bool(last)))
                    stays = scores[-1] >= threshold  # not if it is NaN
                    gone = kept if stays else len(scores) - 1
                    if gone >= 0:
                        forget(scorer, np.array([gone]))
                    if not stays:
                        continue
                    kept = len(scores) - 1
                num_kept[number] += 1
                text = step
                break
    if kept >= 0:
        forget(scorer, np.array([kept]))
    return StepSpeculation(
        tokens=text.tokens,
        num_accepted=num_kept[0],
        num_rewritten=num_kept[1],
        num_small=num_written[0],
        num_large=num_written[1],
        scores=np.array(scores),
    )


@dataclass(frozen=True)
class _Text:
    """A text, and of its generated tokens (length - prompt_len,) what their writers thought."""

    tokens: Longs
    log_prob: Floats
    entropy: Floats


def _score(
    scorer: Scorer, text: _Text, step: int, parent: int, prompt_len: int, finished: bool
) -> float:
    """Score the text with a step.

    Each step is a candidate of its own, which began as a copy of the latest one that was kept.
    """
    scores = scorer(
        Partial(
            candidate=np.array([step]),
            parent=np.array([parent]),
            tokens=[text.tokens],
            prompt_len=np.array([prompt_len]),
            finished=np.array([finished]),
            log_prob=[text.log_prob],
            entropy=[text.entropy],
        )
    )
    return float(scores[0])


class _Writer:
    """A model that goes on with a text, from where it knows it.

    Args:
        model: that writes.
        stops: (s,) tokens that end a step.
        temperature: 0 takes the likeliest token.
        generator: to sample with.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        stops: Sequence[int],
        temperature: float,
        generator: torch.Generator | None,
    ) -> None:
        self._cached = CachedModel(model, 1, 0)
        self._device = model.device
        self._stops = stops
        self._temperature = temperature
        self._generator = generator
        self._read: Longs = np.zeros(0, np.int64)  # what the cache holds

    def write(self, text: _Text, end: int) -> _Text:
        """The text with one more step, which ends at `end` tokens at the latest."""
        tokens, log_probs, entropies = text.tokens.tolist(), list[float](), list[float]()
        logits = self._catch_up(text.tokens)
        while True:
            scaled = (logits / (self._temperature or 1.0)).double()
            log_prob = scaled.log_softmax(dim=0)
            token = self._pick(log_prob)
            tokens.append(token)
            log_probs.append(float(log_prob[token]))
            entropies.append(float(torch.special.entr(log_prob.exp()).sum()))
            if len(tokens) >= end or token in self._stops:
                break
            logits = self._feed(np.array(tokens[-1:]), len(tokens) - 1)
        self._read = np.array(tokens[:-1])
        return _Text(
            np.array(tokens),
            np.concatenate([text.log_prob, log_probs]),
            np.concatenate([text.entropy, entropies]),
        )

    def _catch_up(self, tokens: Longs) -> torch.Tensor:
        """Read what the other model wrote; logits (vocab,) behind the text."""
        length = min(len(self._read), len(tokens) - 1)
        differs = self._read[:length] != tokens[:length]
        start = int(differs.argmax()) if differs.any() else length
        if start == 0:
            ids = upload(tokens[None], self._device)
            return self._cached.read_prompts(ids, np.array([len(tokens)]), np.array([0]))[0]
        return self._feed(tokens[start:], start)

    def _feed(self, tokens: Longs, start: int) -> torch.Tensor:
        """Logits (vocab,) behind tokens (width,) that go on after `start` others."""
        ids = upload(tokens[None], self._device)
        return self._cached.forward(ids, np.array([start]))[0, -1]

    def _pick(self, log_prob: torch.Tensor) -> int:
        if self._temperature == 0:
            return int(log_prob.argmax())
        return int(torch.multinomial(log_prob.exp(), 1, generator=self._generator))
