"""Sampling in the tests: every text of a tiny vocabulary, and how often each is drawn."""

from __future__ import annotations

import copy
import functools
import itertools
from collections import deque
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from text_statistics import count_texts
from transformers import LogitsProcessorList, TemperatureLogitsWarper, TopPLogitsWarper

from flyball.integrations.hf.govern import GovernedGenerate
from flyball.integrations.hf.prompts import Prompts

VOCAB, LENGTH, ROWS, CALLS = 5, 5, 4000, 50
FALSE_ALARM_RATE = 1e-4
PROMPT = [1, 3]
WARPERS: dict[str, dict[str, float]] = {
    "temperature": {"temperature": 0.7, "top_p": 1.0},
    "top_p": {"temperature": 1.0, "top_p": 0.9},
}


def expected_probs(model: Any, warp: dict[str, float]) -> np.ndarray:
    """Probability of every text of LENGTH tokens after the prompt, (VOCAB ** LENGTH,)."""
    texts = torch.tensor(list(itertools.product(range(VOCAB), repeat=LENGTH)))
    ids = torch.cat([torch.tensor(PROMPT).expand(len(texts), -1), texts], dim=1)
    with torch.no_grad():
        logits = model(input_ids=ids).logits[:, len(PROMPT) - 1 : -1].float()
    warpers = LogitsProcessorList()
    if warp["temperature"] != 1.0:
        warpers.append(TemperatureLogitsWarper(warp["temperature"]))
    if warp["top_p"] < 1.0:
        warpers.append(TopPLogitsWarper(warp["top_p"]))
    probs = warpers(ids[:, :1], logits.reshape(-1, VOCAB)).softmax(-1).view(logits.shape)
    return probs.gather(2, texts[..., None]).squeeze(2).double().prod(dim=1).numpy()


def draw_counts(gov: GovernedGenerate, model: Any, warp: dict[str, float]) -> np.ndarray:
    """How often each text was drawn, after warming the governor."""
    torch.manual_seed(7)
    counts = np.zeros(VOCAB**LENGTH)
    prompt = torch.tensor([PROMPT] * ROWS)
    for call in range(CALLS + 5):
        out = model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            do_sample=True,
            top_k=0,
            max_new_tokens=LENGTH,
            custom_generate=gov,
            **warp,
        )
        if call >= 5:
            counts += count_texts(out.numpy()[:, len(PROMPT) :], VOCAB)
    return counts


def draw_counts_from_a_queue(
    gov: GovernedGenerate, model: Any, warp: dict[str, float]
) -> np.ndarray:
    """The same where rows that end make room for the next prompts of a queue."""
    torch.manual_seed(7)
    settings = {"do_sample": True, "top_k": 0, **warp}
    prompts, config = gov.session.prepare(PROMPT, LENGTH, settings)
    with torch.inference_mode():
        queue = deque([lambda: prompts] * (CALLS * ROWS))
        texts = gov.session.assemble(ROWS, config, queue, prompts).run()
    return count_texts(np.stack(texts)[:, len(PROMPT) :], VOCAB)


def draw_counts_by_seeds(gov: GovernedGenerate, warp: dict[str, float]) -> np.ndarray:
    """How often each text was drawn by seeds 0, 1, 2, and so on."""
    settings = {"do_sample": True, "top_k": 0, **warp}
    prompts, config = gov.session.prepare(PROMPT, LENGTH, settings)
    tokens = np.repeat(prompts.tokens, ROWS, axis=0)
    counts = np.zeros(VOCAB**LENGTH)
    for call in range(CALLS):
        seeds = np.arange(call * ROWS, (call + 1) * ROWS, dtype=np.uint64)
        group = replace(prompts, tokens=tokens, num_padding=np.zeros(ROWS, np.int64), seeds=seeds)
        queue = deque([functools.partial(_as_is, group)])
        with torch.inference_mode():
            texts = gov.session.assemble(ROWS, config, queue, group).run()
        counts += count_texts(np.stack(texts)[:, len(PROMPT) :], VOCAB)
    return counts


def _as_is(prompts: Prompts) -> Prompts:
    return prompts


def noisy(model: Any, seed: int) -> Any:
    """A copy of a model with noise on its weights."""
    draft = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in draft.parameters():
            weight += 0.25 * weight.std() * torch.randn(weight.shape, generator=generator)
    return draft
