"""How sure a model is of its next token."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from flyball.kernels.dispatch import implementation, on_gpu
from flyball.kernels.reference.draw import distributions


@dataclass(frozen=True, slots=True)
class Confidence:
    """Properties of distributions alone.

    A token drawn from a distribution plays no part in them, so a decision that uses them stays
    lossless.

    Attributes:
        largest: (...,) largest probability of each, in (0, 1].
        token: (...,) the token that has it.
        max_logit: (...,) its logit by the temperature; None where nobody asked, and where there
            are no logits.
        log_sum_exp: (...,) of the logits by the temperature; likewise.
        entropy: (...,) in nats; None where nobody asked.
        margin: (...,) the largest probability less the second; None where nobody asked.
    """

    largest: torch.Tensor
    token: torch.Tensor
    max_logit: torch.Tensor | None
    log_sum_exp: torch.Tensor | None
    entropy: torch.Tensor | None
    margin: torch.Tensor | None


def confidence(
    logits: torch.Tensor,
    temperature: float = 1.0,
    *,
    entropy: bool = True,
    margin: bool = True,
    log_sum_exp: bool = True,
) -> Confidence:
    """Confidence of softmax(logits / temperature).

    Args:
        logits: (..., vocab) logits or processed scores, -inf where a token is masked. The results
            are float32 for half precision, else of the same dtype; NaN where a row has one.
        temperature: positive.
        entropy: whether it is wanted; a GPU computes it in the same pass.
        margin: likewise.
        log_sum_exp: likewise, and `max_logit`.
    """
    if not (log_sum_exp or on_gpu(logits)):
        return confidence_of(distributions(logits, temperature)[0], entropy=entropy, margin=margin)
    found: Confidence = implementation("confidence", logits).confidence(
        logits, temperature, entropy=entropy, margin=margin
    )
    return found


def confidence_of(probs: torch.Tensor, *, entropy: bool = True, margin: bool = True) -> Confidence:
    """Confidence of distributions that are there: mixtures, or what a token is drawn from.

    Args:
        probs: (..., vocab), of the results' dtype.
        entropy: whether it is wanted.
        margin: whether it is wanted.
    """
    largest, token = probs.max(dim=-1)
    second = None
    if margin:
        second = probs.topk(min(2, probs.shape[-1]), dim=-1).values[..., 1:].sum(dim=-1)
    return Confidence(
        largest,
        token,
        None,
        None,
        torch.special.entr(probs).sum(dim=-1) if entropy else None,
        None if second is None else largest - second,
    )
