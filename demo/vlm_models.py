"""Shapes of the vision-language pair, and its tokenizer, before training."""

from __future__ import annotations

import random
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedTokenizerFast,
)

from flyball.demo.scenes import IMAGE_SIZE
from flyball.demo.vlm_data import (
    END,
    END_ID,
    IMAGE_ID,
    NUM_IMAGE_TOKENS,
    PATCH_SIZE,
    SCENARIOS,
    SPECIAL_TOKENS,
    draw_sample,
)

SEED = 20261122
VOCAB_SIZE = 512

TARGET = {
    "hidden_size": 128,
    "intermediate_size": 320,
    "num_hidden_layers": 8,
    "num_attention_heads": 4,
}
TARGET_TOWER = {"hidden_size": 96, "intermediate_size": 256, "num_hidden_layers": 3}
DRAFT = {
    "hidden_size": 96,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
DRAFT_TOWER = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}


def make_model(shape: dict[str, int], tower: dict[str, int]) -> LlavaForConditionalGeneration:
    """A LLaVA with tied embeddings, initialised from the fixed seed.

    Args:
        shape: of the Llama that reads text and projected image features.
        tower: shape of the CLIP vision tower; its class token is left out.
    """
    torch.manual_seed(SEED)
    text = LlamaConfig(
        vocab_size=VOCAB_SIZE,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=END_ID,
        eos_token_id=END_ID,
        pad_token_id=END_ID,
        **shape,
    )
    vision = CLIPVisionConfig(
        image_size=IMAGE_SIZE, patch_size=PATCH_SIZE, num_attention_heads=4, **tower
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=IMAGE_ID,
        image_seq_length=NUM_IMAGE_TOKENS,
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        tie_word_embeddings=True,
    )
    return LlavaForConditionalGeneration(config)


def train_tokenizer(folders: list[Path]) -> None:
    """Byte-level BPE over equal shares of the scenarios, digits one by one."""
    rng = random.Random(SEED)
    samples = [
        draw_sample(scenario, rng) for scenario in ("cells", *SCENARIOS) for _ in range(400)
    ]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((sample.answer for sample in samples), trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        bos_token=END,
        pad_token=END,
        additional_special_tokens=list(SPECIAL_TOKENS[1:]),
        padding_side="left",
    )
    for folder in folders:
        fast.save_pretrained(folder)
