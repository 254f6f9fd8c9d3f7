"""How sure a draft is of its next token."""

from __future__ import annotations

import torch


def max_probability(scores: torch.Tensor) -> torch.Tensor:
    """Largest probability of softmax(scores) in each row.

    It is a property of the distribution alone; the token drawn from it plays no part, so a
    decision that uses it stays lossless.

    Args:
        scores: (..., vocab) logits or processed scores.

    Returns:
        (...,) in (0, 1], the dtype of `scores`.
    """
    return scores.softmax(dim=-1).amax(dim=-1)
