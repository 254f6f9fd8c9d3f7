"""Distil the draft of the vision-language pair from its target, in every view it is to know."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import islice
from typing import Any

import torch
import torch.nn.functional as F

from flyball.demo.train import fit
from flyball.demo.vlm_alignment import ALIGNMENT_WEIGHT, Alignment
from flyball.demo.vlm_loader import greedy_answers
from flyball.demo.vlm_models import SEED
from flyball.demo.vlm_stream import BATCH_SIZE, Dialogue, batches, dialogues
from flyball.demo.vlm_views import batch_logits, make_batch

OTHER_VIEWS = {"text": 0.45, "pooled": 0.2, "caption": 0.35}  # of a first turn
SECOND_TURN_VIEWS = {"text": 0.6, "caption": 0.4}
LIST_VIEWS = {"multimodal": 0.75, "pooled": 0.25}
SHARES = {
    "first turn": {"captions": 1.0, "questions": 1.0, "cells": 0.4},
    "second turn": {"second_turn": 1.0},
    "no image": {"misleading": 1.0, "sequences": 1.0},
}
GENERATED = {"first turn": 768, "second turn": 384, "no image": 640}  # answers of the target's
GENERATED_SHARE = 0.5
NEW_TOKENS = 100


def kl(target: Any, draft: Any, rows: list[Dialogue], views: list[str]) -> torch.Tensor:
    """KL(target || draft) per text token, the target seeing all and the draft each view."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        with torch.no_grad():
            teacher = batch_logits(target, make_batch(rows, "multimodal"))
        students = [batch_logits(draft, make_batch(rows, view)) for view in views]
    log_p = F.log_softmax(teacher, dim=-1)
    losses = [
        F.kl_div(F.log_softmax(q, dim=-1), log_p, log_target=True, reduction="batchmean")
        for q in students
    ]
    return torch.stack(losses).mean()


def own_answers(target: Any, source: Iterator[Dialogue], count: int) -> list[Dialogue]:
    """Prompts of the source with the target's greedy answers."""
    rows: list[Dialogue] = []
    for _ in range(0, count, 64):
        prompts = [prompt for prompt, _ in islice(source, 64)]
        rows += zip(prompts, greedy_answers(target, prompts, NEW_TOKENS), strict=True)
    return rows


def mixed(
    source: Iterator[Dialogue], own: list[Dialogue], rng: random.Random
) -> Iterator[Dialogue]:
    """Dialogues of the source and of the target's own, drawn by GENERATED_SHARE."""
    while True:
        yield rng.choice(own) if rng.random() < GENERATED_SHARE else next(source)


def drawn(weights: dict[str, float], rng: random.Random) -> str:
    """One of several names by its weight."""
    (name,) = rng.choices(list(weights), list(weights.values()))
    return name


def distil(target: Any, draft: Any, tokenizer: Any, num_steps: int) -> None:
    """Fit the draft.

    A step holds first turns about an image in two views, second turns without it, texts that
    never had one, and lists of what an image shows; the target does not know these, so that the
    draft learns them from the text itself.
    """
    rng = random.Random(SEED + 1)
    streams = {}
    for name, shares in SHARES.items():
        source = dialogues(tokenizer, shares, text_only=1.0, seed=SEED + 2)
        own = own_answers(target, source, GENERATED[name])
        streams[name] = batches(mixed(source, own, rng), SEED + 3)
    print("the target's own answers are ready", flush=True)
    lists = batches(dialogues(tokenizer, {"lists": 1.0}, text_only=0.0, seed=SEED + 2), SEED + 3)
    alignment = Alignment(tokenizer, SEED + 4)
    few = BATCH_SIZE // 2

    def loss_of(model: Any) -> torch.Tensor:
        views = ["multimodal", drawn(OTHER_VIEWS, rng)]
        loss = kl(target, model, next(streams["first turn"]), views)
        second = next(streams["second turn"])[:few]
        loss = loss + 0.5 * kl(target, model, second, [drawn(SECOND_TURN_VIEWS, rng)])
        loss = loss + 0.5 * kl(target, model, next(streams["no image"])[:few], ["text"])
        batch = make_batch(next(lists)[:few], drawn(LIST_VIEWS, rng))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits, aligned = batch_logits(model, batch), alignment.loss(model)
        loss = loss + 0.5 * F.cross_entropy(logits, batch.labels)
        return loss + ALIGNMENT_WEIGHT * aligned

    fit(draft, loss_of, num_steps, 3e-3, "draft")
