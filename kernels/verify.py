"""Chain verification: how much of a draft the target accepts, and the token that follows.

`draft_len` says per request how many of the `K` columns were proposed; what stands beyond is never
looked at.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

Longs = NDArray[np.int64]
Verification = Literal["standard", "block"]


def leading_true(accept: torch.Tensor, draft_len: torch.Tensor) -> torch.Tensor:
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
    num_accepted = leading_true(uniforms * q_drawn < p_drawn, draft_len)

    if draft_probs.shape[1] == 0:
        return num_accepted, torch.multinomial(target_probs[:, 0], 1).squeeze(1)
    rows, last = _rows(num_accepted), draft_probs.shape[1] - 1
    draft_row = draft_probs[rows, num_accepted.clamp(max=last)]
    target_row = target_probs[rows, num_accepted]
    rejected = num_accepted < draft_len
    residual = (target_row - draft_row * rejected[:, None]).clamp(min=0)
    return num_accepted, _draw(residual, target_row)


def verify_block(
    target_probs: torch.Tensor,
    draft_probs: torch.Tensor,
    draft_tokens: torch.Tensor,
    draft_len: torch.Tensor,
    uniforms: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Accept the longest prefix that the draft as a whole allows; never fewer on average.

    With P_0 = 1 and P_i = min(P_{i-1} p(x_i) / q(x_i), 1), the first i tokens are kept with
    probability P_i: by the last of them that passes its own test with

        h_i = Z_i / (Z_i + 1 - P_i),  Z_i = sum_x max(P_i p(x) - q(x), 0)  at the next position,

    and h = P at the draft's end. The token that follows comes from norm(max(P_i p - q, 0)), or
    from p after full acceptance (block verification, Sun et al. 2024, arXiv 2403.10444,
    algorithm 2). Where a draft ends may depend on what was drafted before: h_i makes
    P(kept >= i) = P_i whatever comes after. A token by token test keeps i tokens with the product
    of min(1, p / q), which is never more.

    Arguments, returned values and what is asked of `draft_probs` are those of `verify_sampled`.
    """
    count, width = draft_tokens.shape
    if width == 0:
        return verify_sampled(target_probs, draft_probs, draft_tokens, draft_len, uniforms)
    index = draft_tokens[..., None]
    p_drawn = target_probs[:, :-1].gather(2, index).squeeze(2)
    ratio = p_drawn / draft_probs.gather(2, index).squeeze(2)
    kept = torch.ones(count, width + 1, dtype=ratio.dtype, device=ratio.device)  # P
    chance = torch.empty_like(ratio)  # h of each prefix of 1 to K tokens
    for place in range(width):
        kept[:, place + 1] = (kept[:, place] * ratio[:, place]).clamp(max=1)
        if place:
            scaled = kept[:, place, None] * target_probs[:, place]
            surplus = (scaled - draft_probs[:, place]).clamp(min=0).sum(dim=1)  # Z
            chance[:, place - 1] = surplus / (surplus + 1 - kept[:, place])
    places = torch.arange(1, width + 1, device=ratio.device)
    at_end = places == draft_len[:, None]
    chance = torch.where(at_end, kept[:, 1:], chance)
    passed = (uniforms < chance) & (places <= draft_len[:, None])
    num_accepted = (passed * places).amax(dim=1)
    rows = _rows(num_accepted)
    target_row = target_probs[rows, num_accepted]
    at = num_accepted.clamp(max=width - 1)
    rest = (kept[rows, at, None] * target_probs[rows, at] - draft_probs[rows, at]).clamp(min=0)
    rejected = num_accepted < draft_len
    return num_accepted, _draw(torch.where(rejected[:, None], rest, target_row), target_row)


def _rows(per_row: torch.Tensor) -> torch.Tensor:
    return torch.arange(len(per_row), device=per_row.device)


def _draw(weights: torch.Tensor, otherwise: torch.Tensor) -> torch.Tensor:
    """A token (requests,) of each row by weights (requests, vocab).

    p == q up to rounding leaves none; a rejection there has probability zero in exact arithmetic,
    and p (`otherwise`) is the limit of the residual.
    """
    empty = weights.sum(dim=1, keepdim=True) <= 0
    return torch.multinomial(torch.where(empty, otherwise, weights), 1).squeeze(1)
