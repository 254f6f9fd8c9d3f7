"""What a settled token shows of an ensemble's members, fused."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from flyball.kernels.dispatch import implementation


@dataclass(frozen=True, slots=True)
class AcceptGradient:
    """Of N verified positions and m members; NaN for absent members.

    Attributes:
        ascent: (N, m) supergradient of the acceptance in the weights; see `mix.ascent`.
        overlap: (N, m) what of each member alone is accepted; see `mix.overlap`.
        log_prob: (N, m) logarithm of each member's probability of the settled token.
    """

    ascent: torch.Tensor
    overlap: torch.Tensor
    log_prob: torch.Tensor


def accept_gradient(
    target_logits: torch.Tensor,
    members: torch.Tensor,
    shares: torch.Tensor,
    tokens: torch.Tensor,
    *,
    temperature: float = 1.0,
    present: torch.Tensor | None = None,
) -> AcceptGradient:
    """Compare the members of an ensemble, and their mixture, with the target.

        ascent_j = sum_x q_j(x) [sum_i w_i q_i(x) < p(x)],   overlap_j = sum_x min(p(x), q_j(x))

    Args:
        target_logits: (N, vocab) processed scores, -inf where a token is masked.
        members: (N, m, vocab) distributions q_j.
        shares: (N, m) weights of the mixture that was drafted from, 0 for absent members.
        tokens: (N,) int64, settled.
        temperature: positive; p = softmax(target_logits / temperature).
        present: (N, m) bool; what stands in `members` for others is never looked at. None where
            all are.
    """
    found: AcceptGradient = implementation("accept_gradient", target_logits).accept_gradient(
        target_logits, members, shares, tokens, temperature=temperature, present=present
    )
    return found
