"""How long a forward of a draft takes by depth and width, for a given number of parameters.

A draft's latency follows its depth far more than its width (Decoding Speculative Decoding, arXiv
2402.01528), so a new draft should be shallow and wide; how much so here, this measures.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from flyball.controller.errors import HostError
from flyball.integrations.hf.cached_model import CachedModel

_DEPTHS = (1, 2, 4, 8, 16)
_HEAD_DIM = 64
_CONTEXT = 64  # tokens in the cache
_STEPS = 40  # forwards of each shape, after as many to warm up


@dataclass(frozen=True)
class Shape:
    """A draft that might be trained.

    Attributes:
        depth: layers.
        width: hidden size.
        num_parameters: of all of it, embeddings included.
        step_s: seconds of a forward over one token.
    """

    depth: int
    width: int
    num_parameters: int
    step_s: float


def measure_shapes(target: PreTrainedModel, num_parameters: int) -> Iterator[Shape]:
    """Measure drafts of about so many parameters, with the target's vocabulary and precision.

    Weights are random: they do not matter to the time.
    """
    vocab_size = target.get_input_embeddings().weight.shape[0]
    if _width(num_parameters, 1, vocab_size) < _HEAD_DIM:
        raise HostError(
            f"expected parameters for a layer of width {_HEAD_DIM} and {vocab_size} tokens, but "
            f"got {num_parameters}; give --parameters of at least "
            f"{12 * _HEAD_DIM**2 + vocab_size * _HEAD_DIM}"
        )
    for depth in _DEPTHS:
        width = _width(num_parameters, depth, vocab_size)
        if width < _HEAD_DIM:
            continue
        config = LlamaConfig(
            vocab_size=vocab_size,
            hidden_size=width,
            intermediate_size=_ffn(width),
            num_hidden_layers=depth,
            num_attention_heads=width // _HEAD_DIM,
            num_key_value_heads=width // _HEAD_DIM,
            max_position_embeddings=4 * _CONTEXT,
            tie_word_embeddings=True,
        )
        model = LlamaForCausalLM(config).to(target.device, target.dtype).eval()
        yield Shape(depth, width, model.num_parameters(), _step_s(model))


def _width(num_parameters: int, depth: int, vocab_size: int) -> int:
    """The multiple of a head's size that comes nearest."""
    # Attention has 4 w^2 weights a layer, the gated feed-forward 8 w^2, the embeddings v w.
    width = (math.sqrt(vocab_size**2 + 48 * depth * num_parameters) - vocab_size) / (24 * depth)
    return round(width / _HEAD_DIM) * _HEAD_DIM


def _ffn(width: int) -> int:
    return round(8 * width / 3 / 8) * 8


def _step_s(model: PreTrainedModel) -> float:
    with torch.inference_mode():
        cached = CachedModel(model, 1, 4 * _CONTEXT)
        device = model.device
        prompt = torch.zeros(1, _CONTEXT, dtype=torch.long, device=device)
        cached.read_prompts(prompt, np.array([_CONTEXT]), np.array([0]))
        token = torch.zeros(1, 1, dtype=torch.long, device=device)
        seconds = []
        for step in range(2 * _STEPS):
            start = time.perf_counter()
            cached.forward(token, np.array([_CONTEXT + step])).argmax().item()
            seconds.append(time.perf_counter() - start)
    return float(np.median(seconds[_STEPS:]))
