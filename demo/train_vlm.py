"""Train the vision-language pair: a LLaVA-type target, and a small draft distilled from it.

    python -m flyball.demo.train_vlm all       # forty minutes on one CPU core
    python -m flyball.demo.train_vlm target    # or by stage: tokenizer, target, draft

The target learns every scenario. The draft is distilled by KL(target || draft) on the training
text and on the target's own answers (DistillSpec, ICLR 2024, section 3): in each of its views on
first turns about an image, and without the image on second turns and on texts that are not about
one. Like the drafts of TABED (arXiv 2601.20357), whose weights come from captions, it has never
seen an image beside a text that is not about it, or two images at once. Prompts are drawn where
they are loaded.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from transformers import LlavaForConditionalGeneration, PreTrainedTokenizerFast

from flyball.demo.loader import MODELS
from flyball.demo.train import fit
from flyball.demo.vlm_alignment import ALIGNMENT_WEIGHT, Alignment
from flyball.demo.vlm_distil import distil
from flyball.demo.vlm_models import (
    DRAFT,
    DRAFT_TOWER,
    SEED,
    TARGET,
    TARGET_TOWER,
    make_model,
    train_tokenizer,
)
from flyball.demo.vlm_stream import batches, dialogues
from flyball.demo.vlm_tower import train_tower
from flyball.demo.vlm_views import batch_logits, make_batch

SHARES = {
    "cells": 0.18,
    "captions": 0.20,
    "questions": 0.16,
    "second_turn": 0.16,
    "misleading": 0.18,
    "sequences": 0.12,
}
TEXT_ONLY = 0.4  # of the texts that are not about an image


# With sdpa, whose backward pass is slow in bfloat16 on CPUs, a step of the target takes 0.63 s in
# place of 0.38 s (10 layers, 2,200 tokens, one core of an AMD EPYC, PyTorch 2.13).
TRAINING_ATTENTION = "eager"


def train_target(out: Path, num_steps: int, tower_steps: int) -> None:
    """Next-token training on the text of every scenario."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(out / "vlm_target")
    model = make_model(TARGET, TARGET_TOWER)
    print(f"target: {model.num_parameters():,} parameters")
    train_tower(model.model.vision_tower, tower_steps, SEED)
    model.set_attn_implementation(TRAINING_ATTENTION)
    stream = batches(dialogues(tokenizer, SHARES, TEXT_ONLY, SEED), SEED)

    alignment = Alignment(tokenizer, SEED)

    def loss_of(model: Any) -> torch.Tensor:
        batch = make_batch(next(stream), "multimodal")
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits, aligned = batch_logits(model, batch), alignment.loss(model)
        return F.cross_entropy(logits, batch.labels) + ALIGNMENT_WEIGHT * aligned

    fit(model, loss_of, num_steps, 2e-3, "target")
    save(model, out / "vlm_target")


def train_draft(out: Path, num_steps: int, tower_steps: int) -> None:
    """A tower of its own, then distillation."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(out / "vlm_target")
    target = LlavaForConditionalGeneration.from_pretrained(
        out / "vlm_target", dtype=torch.float32, attn_implementation=TRAINING_ATTENTION
    ).eval()
    draft = make_model(DRAFT, DRAFT_TOWER)
    draft.set_attn_implementation(TRAINING_ATTENTION)
    print(f"draft: {draft.num_parameters():,} parameters")
    train_tower(draft.model.vision_tower, tower_steps, SEED + 1)
    distil(target, draft, tokenizer, num_steps)
    save(draft, out / "vlm_draft")


def save(model: Any, folder: Path) -> None:
    """Weights in bfloat16, in files below 4 MB."""
    model.to(torch.bfloat16).save_pretrained(folder, max_shard_size="3.9MB")


def main() -> None:
    """Run one stage or all of them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("stage", choices=["all", "tokenizer", "target", "draft"])
    parser.add_argument("--out", type=Path, default=MODELS)
    parser.add_argument("--tower-steps", type=int, default=300)
    parser.add_argument("--target-steps", type=int, default=3400)
    parser.add_argument("--draft-steps", type=int, default=1700)
    args = parser.parse_args()
    torch.set_num_threads(1)
    folders = [args.out / "vlm_target", args.out / "vlm_draft"]
    stages: dict[str, Callable[[], object]] = {
        "tokenizer": lambda: train_tokenizer(folders),
        "target": lambda: train_target(args.out, args.target_steps, args.tower_steps),
        "draft": lambda: train_draft(args.out, args.draft_steps, args.tower_steps),
    }
    for name in stages if args.stage == "all" else [args.stage]:
        stages[name]()


if __name__ == "__main__":
    main()
