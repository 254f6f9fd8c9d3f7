"""Vision-language models with random weights, and prompts with images for them."""

from __future__ import annotations

import copy
from typing import Any

import torch
from hf_texts import pad_left
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
)

IMAGE, VOCAB, NUM_TOKENS = 63, 64, 16  # placeholder, vocabulary, tokens of an image


def random_llava(noise: float = 0.1) -> tuple[Any, Any]:
    """Target with random weights in float64, and a draft that is the target with noise."""
    torch.manual_seed(3)
    vision = CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        image_size=16,
        patch_size=4,
        initializer_range=1.0,
    )
    text = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        initializer_range=0.15,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=IMAGE,
        image_seq_length=NUM_TOKENS,
        vision_feature_select_strategy="default",
        vision_feature_layer=-1,
    )
    target = LlavaForConditionalGeneration(config).double().eval()
    draft = copy.deepcopy(target)
    with torch.no_grad():
        for weight in draft.parameters():
            weight += noise * weight.std().nan_to_num() * torch.randn_like(weight)
    return target, draft


def prompts_with_images(num_images: list[int], seed: int = 5) -> dict[str, torch.Tensor]:
    """Inputs of `generate`: one prompt for each number of images, padded on the left."""
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for place, count in enumerate(num_images):
        parts = [torch.randint(3, 60, (3 + place,), generator=generator)]
        for _ in range(count):
            parts.append(torch.full((NUM_TOKENS,), IMAGE))
            parts.append(torch.randint(3, 60, (2 + place,), generator=generator))
        rows.append(torch.cat(parts))
    inputs = pad_left(rows, 0)
    if sum(num_images):
        shape = (sum(num_images), 3, 16, 16)
        inputs["pixel_values"] = torch.randn(shape, generator=generator, dtype=torch.float64)
    return inputs


def one_row(inputs: dict[str, torch.Tensor], row: int, num_images: list[int]) -> dict[str, Any]:
    """The inputs of one row alone, without padding."""
    first = sum(num_images[:row])
    keep = inputs["attention_mask"][row].bool()
    own: dict[str, Any] = {
        "input_ids": inputs["input_ids"][row][keep][None],
        "attention_mask": inputs["attention_mask"][row][keep][None],
    }
    if num_images[row]:
        own["pixel_values"] = inputs["pixel_values"][first : first + num_images[row]]
    return own
