"""Models, prompts and comparisons that the tests of the transformers integration share."""

from __future__ import annotations

import copy
import logging
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from flyball.controller.governor import Offer, Plan
from flyball.integrations.hf import GovernedGenerate

log = logging.getLogger(__name__)


def pad_left(rows: list[torch.Tensor], pad: int) -> dict[str, torch.Tensor]:
    width = max(len(row) for row in rows)
    ids = torch.stack([torch.cat([row.new_full((width - len(row),), pad), row]) for row in rows])
    mask = torch.stack([(torch.arange(width) >= width - len(row)).long() for row in rows])
    return {"input_ids": ids, "attention_mask": mask}


def plain(model: Any, row: torch.Tensor, **settings: Any) -> tuple[list[int], torch.Tensor]:
    """Plain generate of one unpadded row: new tokens, and the gap between the two best logits."""
    out = model.generate(
        input_ids=row[None],
        attention_mask=torch.ones_like(row)[None],
        do_sample=False,
        return_dict_in_generate=True,
        output_scores=True,
        **settings,
    )
    top = torch.stack(out.scores)[:, 0].topk(2).values
    return out.sequences[0, len(row) :].tolist(), top[:, 0] - top[:, 1]


def assert_same(
    out: torch.Tensor,
    prompt_width: int,
    expected: list[tuple[list[int], torch.Tensor]],
    tie: float,
) -> None:
    for number, (tokens, gap) in enumerate(expected):
        got = out[number, prompt_width:].tolist()
        for place, token in enumerate(tokens):
            if got[place] == token:
                continue
            assert gap[place] < tie, f"row {number}, token {place}: {got[place]} != {token}"
            log.warning("near tie: row %d, token %d, gap %.1e", number, place, gap[place])
            break


def random_models(name: str) -> tuple[Any, Any]:
    """Target of an architecture with random weights in float64, and a draft that resembles it."""
    torch.manual_seed(3)
    shape: dict[str, Any] = {"vocab_size": 64, "initializer_range": 0.15, "eos_token_id": 2}
    wide = {
        "hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4,
        "num_key_value_heads": 2, "pad_token_id": 0, "bos_token_id": 1, "num_hidden_layers": 3,
    }  # fmt: skip
    if name == "gpt2":
        config = GPT2Config(n_embd=32, n_layer=3, n_head=4, pad_token_id=0, **shape)
        target = GPT2LMHeadModel(config)
    elif name == "qwen2":
        target = Qwen2ForCausalLM(Qwen2Config(**wide, **shape))
    else:
        target = Qwen3ForCausalLM(Qwen3Config(head_dim=8, **wide, **shape))
    target = target.double().eval()
    draft = copy.deepcopy(target)
    with torch.no_grad():
        for weight in draft.parameters():
            weight += 0.1 * weight.std().nan_to_num() * torch.randn_like(weight)
    return target, draft


def random_rows(count: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    return [
        torch.randint(3, 64, (4 + 5 * (i % 3) + i,), generator=generator) for i in range(count)
    ]


SETTINGS: dict[str, dict[str, Any]] = {
    "repetition penalty": {"repetition_penalty": 1.4},
    "no repeated n-grams": {"no_repeat_ngram_size": 2},
    "least length": {"min_new_tokens": 50},
    "bad words": {"bad_words_ids": [[5], [7, 9]]},
    "forced end": {"forced_eos_token_id": 2},
    "allowed by prefix": {
        "prefix_allowed_tokens_fn": lambda row, ids: list(range(2 + (len(ids) + row) % 3, 64, 3))
    },
}


def shuffle_drafts(gov: GovernedGenerate, longest: int, seed: int = 0) -> None:
    """Every row takes another draft and length in every round, whatever the governor plans."""
    rng, infos, plan = np.random.default_rng(seed), gov.governor._host.drafts, gov.governor.plan

    def shuffled(slots: Any, size: int, offers: list[Offer], **rest: Any) -> Plan:
        planned = plan(slots, size, offers=offers, **rest)
        stepping = [i for i, info in enumerate(infos) if info.steps]
        usable = [*rng.permutation(stepping)[:1], *(offer.draft for offer in offers)]
        draft = rng.choice(usable, len(slots)) if usable else np.zeros(len(slots))
        draft_len = rng.integers(0, longest + 1, len(slots)) if usable else draft
        for offer in offers:
            limit = np.minimum(draft_len, offer.draft_len)
            draft_len = np.where(draft == offer.draft, limit, draft_len)
        return replace(planned, draft_len=draft_len.astype(np.int32), draft=draft.astype(np.int32))

    gov.governor.plan = shuffled
