"""Floating-point operations of a forward, counted by formula."""

from __future__ import annotations

import weakref
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

Longs = NDArray[np.int64]
Floats = NDArray[np.float64]

_weights: weakref.WeakKeyDictionary[nn.Module, int] = weakref.WeakKeyDictionary()


def forward_flops(model: Any, width: Longs | int, context: Longs | int) -> float:
    """FLOPs of reading tokens into a decoder-only model.

        width x (2 x weights + 4 x layers x hidden x (context + (width + 1) / 2))

    as in Scaling Laws for Neural Language Models (arXiv 2001.08361, section 2.1): a weight that
    multiplies costs a multiplication and an addition a token, attention two products with every
    token that is seen, itself included. Embeddings are looked up and cost nothing, unless they are
    the output layer as well. All experts of a mixture count, and every position's logits.

    Args:
        model: a transformers model, with or without a head.
        width: (...) tokens that are read.
        context: (...) tokens that are in the cache before them.

    Returns:
        Sum over all rows.
    """
    config = model.config.get_text_config()
    width, context = np.asarray(width, np.float64), np.asarray(context, np.float64)
    attended = width * (context + (width + 1) / 2)
    num_heads = config.num_attention_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // num_heads
    per_attended = 4 * config.num_hidden_layers * num_heads * head_dim
    return float((2 * num_weights(model) * width + per_attended * attended).sum())


def num_weights(model: nn.Module) -> int:
    """Parameters that multiply: all but those of embeddings, tied ones counted once."""
    if model not in _weights:
        parameters = {
            id(parameter): parameter.numel()
            for module in model.modules()
            if not isinstance(module, nn.Embedding)
            for parameter in module.parameters(recurse=False)
        }
        _weights[model] = sum(parameters.values())
    return _weights[model]
