"""Distributions and draws that the references share."""

from __future__ import annotations

import torch


def distributions(logits: torch.Tensor, temperature: float) -> tuple[torch.Tensor, torch.Tensor]:
    """softmax(logits / temperature) (..., vocab), and where there is none (...,).

    There is none where a score is NaN or +inf, and where all are -inf. Half precision is computed
    in single precision.
    """
    scaled = single(logits)
    probs = (scaled if temperature == 1.0 else scaled / temperature).softmax(dim=-1)
    return probs, probs[..., 0].isnan()


def single(values: torch.Tensor) -> torch.Tensor:
    """Half precision as single precision."""
    return values.float() if values.element_size() < 4 else values


def leading_true(accept: torch.Tensor, draft_len: torch.Tensor) -> torch.Tensor:
    """Length of the accepted prefix of each row, at most `draft_len`."""
    # (requests, K) bool -> (requests,)
    columns = torch.arange(accept.shape[1], device=accept.device)
    proposed = columns < draft_len[:, None]
    return (accept & proposed).long().cumprod(dim=1).sum(dim=1)


def draw(weights: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
    """A token (rows,) of each row by weights (rows, vocab): the inverse CDF at uniforms (rows,).

    The first token whose cumulated weight exceeds u times the total; one without weight is never
    drawn. Sums are those of float64. Rows that have no total (0 or NaN) give some token.
    """
    sums = weights.double().cumsum(dim=-1)
    wanted = uniforms[:, None] * sums[:, -1:]
    return (sums <= wanted).sum(dim=-1).clamp(max=weights.shape[-1] - 1)
