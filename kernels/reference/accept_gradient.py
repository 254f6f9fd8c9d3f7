"""The members' evidence in plain torch; see `flyball.kernels.accept_gradient`."""

from __future__ import annotations

import torch

from flyball.kernels.accept_gradient import AcceptGradient
from flyball.kernels.mix import ascent, mix, overlap
from flyball.kernels.reference.draw import distributions, single


def accept_gradient(
    target_logits: torch.Tensor,
    members: torch.Tensor,
    shares: torch.Tensor,
    tokens: torch.Tensor,
    *,
    temperature: float = 1.0,
    present: torch.Tensor | None = None,
) -> AcceptGradient:
    """One after the other."""
    p, _ = distributions(target_logits, temperature)
    q = single(members)
    if present is not None:
        q = q.masked_fill(~present[..., None], 0.0)
    at_token = q.gather(2, tokens[:, None, None].expand(-1, q.shape[1], -1))[..., 0].log()
    if present is not None:
        at_token = at_token.masked_fill(~present, torch.nan)
    return AcceptGradient(ascent(p, q, mix(q, shares), present), overlap(p, q, present), at_token)
