"""Training dialogues of the vision-language pair, without end and from a seed."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import islice
from typing import Any

from flyball.demo.vlm_data import (
    OUT_OF_DOMAIN,
    VlmPrompt,
    draw_sample,
    encode_answer,
    encode_prompt,
)
from flyball.demo.vlm_views import view_ids

Dialogue = tuple[VlmPrompt, list[int]]  # prompt and answer

LONGEST_ANSWER = {True: 80, False: 160}  # tokens, by whether it is out of domain; the rest is cut
BATCH_SIZE = 10
BATCHES_SORTED = 20  # batches whose dialogues are sorted by length together


def without_images(prompt: VlmPrompt) -> VlmPrompt:
    """The text of a prompt."""
    return VlmPrompt(view_ids(prompt, "text"), prompt.pixel_values[:0], [])


def dialogues(
    tokenizer: Any, shares: dict[str, float], text_only: float, seed: int
) -> Iterator[Dialogue]:
    """Dialogues of scenarios drawn by their shares.

    Args:
        tokenizer: of the pair.
        shares: probability of each scenario.
        text_only: share of the out-of-domain dialogues that come without their images.
        seed: of everything drawn.
    """
    rng = random.Random(seed)
    while True:
        (scenario,) = rng.choices(list(shares), list(shares.values()))
        sample = draw_sample(scenario, rng)
        prompt, outside = encode_prompt(sample, tokenizer), scenario in OUT_OF_DOMAIN
        if outside and rng.random() < text_only:
            prompt = without_images(prompt)
        yield prompt, encode_answer(sample, tokenizer, LONGEST_ANSWER[outside])


def batches(source: Iterator[Dialogue], seed: int) -> Iterator[list[Dialogue]]:
    """Batches of dialogues of similar length, in random order."""
    rng = random.Random(seed)
    while True:
        pool = list(islice(source, BATCH_SIZE * BATCHES_SORTED))
        pool.sort(key=lambda dialogue: len(dialogue[0].input_ids) + len(dialogue[1]))
        starts = list(range(0, len(pool), BATCH_SIZE))
        rng.shuffle(starts)
        for start in starts:
            yield pool[start : start + BATCH_SIZE]
