"""How sure a draft is of its next token."""

from __future__ import annotations

import torch


def most_probable(scores: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Largest probability of softmax(scores) in each row, and the token that has it.

    The probability is a property of the distribution alone; a token drawn from it plays no part,
    so a decision that uses it stays lossless.

    Args:
        scores: (..., vocab) logits or processed scores.

    Returns:
        (...,) probabilities in (0, 1], the dtype of `scores`, and (...,) token ids.
    """
    probability, token = scores.softmax(dim=-1).max(dim=-1)
    return probability, token
