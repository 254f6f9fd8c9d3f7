"""Chain verification: how much of a draft the target accepts, and the token that follows.

`draft_len` says per request how many of the `K` columns were proposed; what stands beyond is never
looked at.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from flyball.kernels.dispatch import implementation

Longs = NDArray[np.int64]
Verification = Literal["standard", "block"]


@dataclass(frozen=True, slots=True)
class Verified:
    """What the target made of sampled drafts.

    Values are those of observed columns, and NaN elsewhere: a drafted token is observed if the
    ones before it were accepted.

    Attributes:
        num_accepted: (requests,) drafted tokens accepted, at most draft_len; 0 in a bad row.
        next_token: (requests,) the token that follows; -1 in a bad row.
        ratio: (requests, K) p(x) / q(x) of the drafted tokens.
        target_prob: (requests, K + 1) p of the accepted tokens and of the one that follows.
        bad: (requests,) a distribution that the verdict rests on is none: it has a NaN or an
            infinite score, or all of its tokens are masked. Nothing is sampled from it.
        overlap: (requests, K) sum_x min(p, q) = 1 - TV(p, q); None where nobody asked.
    """

    num_accepted: torch.Tensor
    next_token: torch.Tensor
    ratio: torch.Tensor
    target_prob: torch.Tensor
    bad: torch.Tensor
    overlap: torch.Tensor | None = None


def verify(
    target_logits: torch.Tensor,
    draft: torch.Tensor | None,
    draft_tokens: torch.Tensor,
    draft_len: torch.Tensor,
    seeds: torch.Tensor,
    places: torch.Tensor,
    *,
    temperature: float = 1.0,
    method: Verification = "standard",
    certain: torch.Tensor | None = None,
    wants_overlap: bool = False,
) -> Verified:
    """Accept a prefix of each draft, and draw the token that follows: emitted tokens are p's.

    "standard": token x is accepted with probability min(1, p(x) / q(x)). After a rejection the
    next token comes from the residual norm(max(p - q, 0)), after full acceptance from p (Leviathan
    et al. 2023, arXiv 2211.17192, theorem 3.5).

    "block": with P_0 = 1 and P_i = min(P_{i-1} p(x_i) / q(x_i), 1), the first i tokens are kept
    with probability P_i: by the last of them that passes its own test with

        h_i = Z_i / (Z_i + 1 - P_i),  Z_i = sum_x max(P_i p(x) - q(x), 0)  at the next position,

    and h = P at the draft's end. The token that follows comes from norm(max(P_i p - q, 0)), or
    from p after full acceptance (block verification, Sun et al. 2024, arXiv 2403.10444,
    algorithm 2). Where a draft ends may depend on what was drafted before: h_i makes
    P(kept >= i) = P_i whatever comes after. A token by token test keeps i tokens with the product
    of min(1, p / q), which is never more.

    Either is exact provided that `draft` is the very distribution that `draft_tokens` were drawn
    from. Uniforms come from `philox.uniforms` at the place of each token, so that a row's verdict
    does not depend on the rows beside it; the next token is drawn by the inverse CDF. Half
    precision is computed in single precision.

    Args:
        target_logits: (requests, K + 1, vocab) processed scores, -inf where a token is masked.
        draft: (requests, D, vocab) q at the first D of the K drafted positions; the rest must be
            certain. None where all are.
        draft_tokens: (requests, K) int64, drawn from q.
        draft_len: (requests,) int64, number of drafted tokens that count, at most K.
        seeds: (requests,) int64, fresh ones for every draft whose verdict may decide on what is
            drafted next.
        places: (requests,) int64, of the first drafted token in its text.
        temperature: positive; p = softmax(target_logits / temperature).
        method: of the two above.
        certain: (requests,) bool, drafts that were not drawn: q is a point mass at each token,
            and what stands in `draft` is never looked at. None where `draft` says it all.
        wants_overlap: whether to compute it, which reads all of q.
    """
    found: Verified = implementation("verify", target_logits).verify(
        target_logits,
        draft,
        draft_tokens,
        draft_len,
        seeds,
        places,
        temperature=temperature,
        method=method,
        certain=certain,
        wants_overlap=wants_overlap,
    )
    return found


def verify_greedy(target_tokens: Longs, draft_tokens: Longs, draft_len: Longs) -> Longs:
    """Accept a draft as long as it repeats the target's argmax.

    On the host, where both are wanted anyway: a round reads them once, in one copy.

    Args:
        target_tokens: (requests, K + 1) the target's argmax at each verified position.
        draft_tokens: (requests, K) the drafted tokens.
        draft_len: (requests,) number of drafted tokens that count, at most K.

    Returns:
        num_accepted (requests,): the target's tokens up to and including this index are the
        emitted ones, the last of them the correction, or the bonus token after full acceptance.
    """
    # A miss at the end of every row, for argmax to find.
    miss = np.ones(target_tokens.shape, np.bool_)
    np.not_equal(target_tokens[:, :-1], draft_tokens, out=miss[:, :-1])
    num_accepted: Longs = np.minimum(miss.argmax(axis=1), draft_len)
    return num_accepted
