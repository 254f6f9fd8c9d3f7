"""Confidence in plain torch; see `flyball.kernels.confidence`."""

from __future__ import annotations

from dataclasses import replace

import torch

from flyball.kernels.confidence import Confidence, confidence_of
from flyball.kernels.reference.draw import distributions


def confidence(
    logits: torch.Tensor, temperature: float = 1.0, *, entropy: bool = True, margin: bool = True
) -> Confidence:
    """By way of the distributions themselves."""
    probs, _ = distributions(logits, temperature)
    found = confidence_of(probs, entropy=entropy, margin=margin)
    max_logit = logits.gather(-1, found.token[..., None])[..., 0].to(probs.dtype) / temperature
    log_sum_exp = max_logit - found.largest.log()
    return replace(found, max_logit=max_logit, log_sum_exp=log_sum_exp)
