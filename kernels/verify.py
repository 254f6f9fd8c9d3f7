"""Chain verification: how much of a draft the target accepts, and the token that follows.

`draft_len` says per request how many of the `K` columns were proposed; what stands beyond is never
looked at.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

Longs = NDArray[np.int64]


def _leading_true(accept: torch.Tensor, draft_len: torch.Tensor) -> torch.Tensor:
    """Length of the accepted prefix of each row, at most `draft_len`."""
    # (requests, K) bool -> (requests,)
    columns = torch.arange(accept.shape[1], device=accept.device)
    proposed = columns < draft_len[:, None]
    return (accept & proposed).long().cumprod(dim=1).sum(dim=1)


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


def verify_sampled(
    target_probs: torch.Tensor,
    draft_probs: torch.Tensor,
    draft_tokens: torch.Tensor,
    draft_len: torch.Tensor,
    uniforms: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Accept token x with probability min(1, p(x) / q(x)); then draw from the residual.

    The residual after a rejection is norm(max(p - q, 0)); after full acceptance the bonus token
    comes from p. Emitted tokens are distributed as p exactly (Leviathan et al. 2023, theorem 3.5),
    provided that `draft_probs` is the very distribution that `draft_tokens` were drawn from.

    Args:
        target_probs: (requests, K + 1, vocab) p at each verified position.
        draft_probs: (requests, K, vocab) q at each drafted position.
        draft_tokens: (requests, K) drawn from q.
        draft_len: (requests,) number of drafted tokens that count, at most K.
        uniforms: (requests, K) draws from [0, 1).

    Returns:
        num_accepted (requests,) and next_token (requests,).
    """
    index = draft_tokens[..., None]
    p_drawn = target_probs[:, :-1].gather(2, index).squeeze(2)
    q_drawn = draft_probs.gather(2, index).squeeze(2)
    num_accepted = _leading_true(uniforms * q_drawn < p_drawn, draft_len)

    rows = torch.arange(len(num_accepted), device=num_accepted.device)
    target_row = target_probs[rows, num_accepted]
    rejected = num_accepted < draft_len
    if draft_probs.shape[1] == 0:
        return num_accepted, torch.multinomial(target_row, 1).squeeze(1)
    draft_row = draft_probs[rows, num_accepted.clamp(max=draft_probs.shape[1] - 1)]
    residual = (target_row - draft_row * rejected[:, None]).clamp(min=0)
    # p == q up to rounding leaves nothing; a rejection there has probability zero in exact
    # arithmetic, and p is the limit of the residual.
    empty = residual.sum(dim=1, keepdim=True) <= 0
    residual = torch.where(empty, target_row, residual)
    return num_accepted, torch.multinomial(residual, 1).squeeze(1)
