"""A draw from a mixture in plain torch; see `flyball.kernels.mix`."""

from __future__ import annotations

import torch

from flyball.kernels.mix import Drawn, mix
from flyball.kernels.philox import token_noise
from flyball.kernels.reference.draw import single


def mix_draw(
    logits: torch.Tensor,
    shares: torch.Tensor,
    seeds: torch.Tensor,
    places: torch.Tensor,
    *,
    temperature: float = 1.0,
    greedy: bool = False,
) -> Drawn:
    """By way of the distributions themselves."""
    heard = shares > 0
    scaled = (single(logits) / temperature).masked_fill(~heard[..., None], 0.0)
    mixture = mix(scaled.softmax(dim=-1), shares)
    noisy = mixture
    if not greedy:
        noisy = mixture.log() + token_noise(seeds, places[:, None], logits.shape[2])[:, 0]
    token = noisy.argmax(dim=-1)
    prob = mixture.gather(1, token[:, None])[:, 0]
    token = token.masked_fill(prob.isnan(), -1)
    log_sum_exp = scaled.logsumexp(dim=-1).masked_fill(~heard, torch.nan)
    return Drawn(token, prob, log_sum_exp)
