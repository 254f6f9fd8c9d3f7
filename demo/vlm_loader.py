"""Loading the vision-language pair and its prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from flyball.demo.loader import MODELS
from flyball.demo.vlm_data import END_ID, VlmPrompt, draw_prompts

TARGET_FOLDER, DRAFT_FOLDER = MODELS / "vlm_target", MODELS / "vlm_draft"
PROMPT_SEED = 7  # training draws from other seeds
PROMPTS_PER_SCENARIO = 24


@dataclass(frozen=True)
class VlmModels:
    """The vision-language pair of the demo.

    Attributes:
        target: LlavaForConditionalGeneration of 8 layers.
        draft: LlavaForConditionalGeneration of 2 layers with the same number of image tokens,
            distilled from the target in every view, out of domain on text alone.
        tokenizer: byte-level BPE of 512 tokens of both, padding on the left.
        prompts: held-out prompts by scenario, see `vlm_data`.
    """

    target: Any
    draft: Any
    tokenizer: Any
    prompts: dict[str, list[VlmPrompt]]


def load_vlm_demo(dtype: str = "float32") -> VlmModels:
    """Load the shipped models on the CPU and draw the prompts with their images.

    Args:
        dtype: of the weights in memory; they are stored in bfloat16. Pixels are always float32.
    """
    from transformers import LlavaForConditionalGeneration, PreTrainedTokenizerFast

    target, draft = (
        LlavaForConditionalGeneration.from_pretrained(
            folder, dtype=getattr(torch, dtype), attn_implementation="sdpa"
        ).eval()
        for folder in (TARGET_FOLDER, DRAFT_FOLDER)
    )
    tokenizer = PreTrainedTokenizerFast.from_pretrained(TARGET_FOLDER)
    prompts = draw_prompts(tokenizer, PROMPT_SEED, PROMPTS_PER_SCENARIO)
    return VlmModels(target, draft, tokenizer, prompts)


def left_padded(prompts: Sequence[VlmPrompt]) -> dict[str, torch.Tensor]:
    """Arguments of `generate` for several prompts, all images in one tensor, row by row."""
    width = max(len(prompt.input_ids) for prompt in prompts)
    padding = [width - len(prompt.input_ids) for prompt in prompts]
    rows = [
        [END_ID] * pad + prompt.input_ids for pad, prompt in zip(padding, prompts, strict=True)
    ]
    mask = [[0] * pad + [1] * (width - pad) for pad in padding]
    inputs = {"input_ids": torch.tensor(rows), "attention_mask": torch.tensor(mask)}
    pixels = np.concatenate([prompt.pixel_values for prompt in prompts])
    if len(pixels):
        inputs["pixel_values"] = torch.from_numpy(pixels)
    return inputs


@torch.no_grad()
def greedy_answers(
    model: Any, prompts: Sequence[VlmPrompt], max_new_tokens: int
) -> list[list[int]]:
    """The model's greedy answer to each prompt, with its end token if it came to it."""
    inputs = left_padded(prompts)
    text = model.generate(**inputs, do_sample=False, max_new_tokens=max_new_tokens)
    rows = text[:, inputs["input_ids"].shape[1] :].tolist()
    return [row[: row.index(END_ID) + 1] if END_ID in row else row for row in rows]
