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
from flyball.demo.vlm_data import IN_DOMAIN, OUT_OF_DOMAIN
from flyball.demo.vlm_loader import greedy_answers
from flyball.demo.vlm_models import SEED
from flyball.demo.vlm_stream import BATCH_SIZE, Dialogue, batches, dialogues
from flyball.demo.vlm_views import batch_logits, make_batch

OTHER_VIEWS = {"text": 0.45, "pooled": 0.2, "caption": 0.35}
GENERATED = {"in domain": 1024, "out of domain": 768}  # answers of the target's own
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


def distil(target: Any, draft: Any, tokenizer: Any, num_steps: int) -> None:
    """Fit the draft; dialogues about an image and texts without one take turns."""
    rng = random.Random(SEED + 1)
    streams = {}
    for name, scenarios in (("in domain", IN_DOMAIN), ("out of domain", OUT_OF_DOMAIN)):
        shares = dict.fromkeys(scenarios, 1.0)
        if name == "in domain":
            shares["cells"] = 0.4
        source = dialogues(tokenizer, shares, text_only=1.0, seed=SEED + 2)
        own = own_answers(target, source, GENERATED[name])
        streams[name] = batches(mixed(source, own, rng), SEED + 3)
    print("the target's own answers are ready", flush=True)

    alignment = Alignment(tokenizer, SEED + 4)

    def loss_of(model: Any) -> torch.Tensor:
        (other,) = rng.choices(list(OTHER_VIEWS), list(OTHER_VIEWS.values()))
        about_image = kl(target, model, next(streams["in domain"]), ["multimodal", other])
        rows = next(streams["out of domain"])[: BATCH_SIZE // 2]
        beside_text = ALIGNMENT_WEIGHT * alignment.loss(model)
        return about_image + 0.5 * kl(target, model, rows, ["text"]) + beside_text

    fit(draft, loss_of, num_steps, 3e-3, "draft")
