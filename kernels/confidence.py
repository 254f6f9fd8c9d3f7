"""How sure a draft is of its next token."""

from __future__ import annotations

import torch


def max_probability(scores: torch.Tensor) -> torch.Tensor:
    """Largest probability of softmax(scores) in each row.

    `max softmax(x) = exp(max x - logsumexp x)`: no distribution is written out. It is a property
    of the distribution alone; the token drawn from it plays no part, so a decision that uses it
    stays lossless.

    Args:
        scores: (..., vocab) logits or processed scores.

    Returns:
        (...,) in (0, 1], the dtype of `scores`.
    """
    return torch.exp(scores.amax(dim=-1) - torch.logsumexp(scores, dim=-1))
