"""How sure a draft is of its next token."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class Confidence:
    """Properties of distributions alone.

    A token drawn from a distribution plays no part in them, so a decision that uses them stays
    lossless.

    Attributes:
        probs: (..., vocab) the distributions.
        largest: (...,) largest probability of each, in (0, 1].
        token: (...,) the token that has it.
    """

    probs: torch.Tensor
    largest: torch.Tensor
    token: torch.Tensor

    def entropy(self) -> torch.Tensor:
        """Entropy (...,) in nats."""
        result: torch.Tensor = torch.special.entr(self.probs).sum(dim=-1)
        return result


def confidence(scores: torch.Tensor) -> Confidence:
    """Confidence of softmax(scores).

    Args:
        scores: (..., vocab) logits or processed scores; the results have their dtype.
    """
    probs = scores.softmax(dim=-1)
    largest, token = probs.max(dim=-1)
    return Confidence(probs, largest, token)
