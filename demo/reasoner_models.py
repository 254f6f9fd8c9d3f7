"""Shapes, tokenizer and rows of the reasoning models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from flyball.demo.arithmetic import SYMBOLS, Problem

SEED = 20261123
END, PAD = "<end>", "<pad>"
END_ID, PAD_ID = len(SYMBOLS), len(SYMBOLS) + 1
VOCAB_SIZE = len(SYMBOLS) + 2
IGNORED = -100  # label of a position without loss

LANGUAGE_MODEL = {"hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 4}

_ID_OF_BYTE = np.full(256, -1)
_ID_OF_BYTE[list(SYMBOLS.encode())] = range(len(SYMBOLS))


def make_tokenizer() -> PreTrainedTokenizerFast:
    """One token a character, an end token and padding on the left."""
    vocab = {symbol: i for i, symbol in enumerate([*SYMBOLS, END, PAD])}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token=PAD,
        padding_side="left",
        model_input_names=["input_ids", "attention_mask"],
    )


def make_config(shape: dict[str, int], **options: Any) -> LlamaConfig:
    """A Llama over the symbols, with tied embeddings."""
    return LlamaConfig(
        vocab_size=VOCAB_SIZE,
        num_attention_heads=4,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=END_ID,
        pad_token_id=PAD_ID,
        **shape,
        **options,
    )


def make_model(shape: dict[str, int]) -> LlamaForCausalLM:
    """A Llama initialised from the fixed seed."""
    torch.manual_seed(SEED)
    model = LlamaForCausalLM(make_config(shape, attn_implementation="eager"))
    put_digits_on_circles(model.get_input_embeddings().weight)
    return model


@torch.no_grad()
def put_digits_on_circles(embeddings: torch.Tensor) -> None:
    """Begin the digits' embeddings as waves of every period modulo 10.

    Sums modulo 10 are rotations of such waves, which transformers find by themselves after a long
    plateau (Nanda et al., arXiv 2301.05217): two-digit sums were right after 400 steps in place of
    more than 900.

    Args:
        embeddings: (tokens, hidden), digits first; changed in place.
    """
    angles = 2 * torch.pi / 10 * torch.outer(torch.arange(10.0), torch.arange(1.0, 6.0))
    waves = torch.cat([angles.cos(), angles.sin()], dim=1)  # (digits, waves)
    directions = torch.linalg.qr(torch.randn(embeddings.shape[1], 10)).Q.T
    scale = embeddings[:10].norm() / (waves @ directions).norm()
    embeddings[:10] += 2 * scale * waves @ directions


def encode(text: str) -> list[int]:
    """Token ids of problem or solution text."""
    ids: list[int] = _ID_OF_BYTE[np.frombuffer(text.encode(), np.uint8)].tolist()
    return ids


def padded(rows: Sequence[Sequence[float]], value: int) -> torch.Tensor:
    """Rows of differing length, filled on the right."""  # (rows, width)
    width = max(map(len, rows))
    return torch.tensor([[*row, *[value] * (width - len(row))] for row in rows])


def solved_rows(problems: Sequence[Problem]) -> tuple[torch.Tensor, torch.Tensor]:
    """Problems with right solutions: ids, and labels of the solution alone."""  # (rows, width)
    prompts = [encode(problem.text) for problem in problems]
    solutions = [[*encode(problem.solution), END_ID] for problem in problems]
    both = list(zip(prompts, solutions, strict=True))
    ids = padded([p + s for p, s in both], PAD_ID)
    return ids, padded([[IGNORED] * len(p) + s for p, s in both], IGNORED)
