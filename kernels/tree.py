"""Tree verification: several candidates for each drafted position, from the same draft forwards.

A spine of K drafted tokens, and at each depth up to width - 1 siblings of its token, which are
leaves (`TreeBlock`). `draft_len` says per request to which depth candidates were proposed; what
stands beyond is never looked at. Where a draft stops may depend on the draft's distributions up to
there, not on the tokens drawn at that depth, siblings included.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic

import numpy as np
import torch

from flyball.kernels.tree_block import Counts, Longs, TreeBlock
from flyball.kernels.verify import leading_true, verify_greedy


@dataclass(frozen=True, slots=True)
class TreeVerdict(Generic[Counts]):
    """What the target accepted.

    Attributes:
        num_accepted: (requests,) accepted tokens, at most K.
        choice: (requests,) which candidate the last of them is: 0 for the spine's.
        path: (requests, K + 1) columns of the `TreeBlock` that hold the last settled token and
            the accepted ones; what stands behind `num_accepted` means nothing.
        next_token: (requests,) the token that follows.
    """

    num_accepted: Counts
    choice: Counts
    path: Counts
    next_token: Counts


def draw_siblings(draft_probs: torch.Tensor, spine: torch.Tensor, width: int) -> torch.Tensor:
    """Draw from q without replacement, after the spine's token was drawn from it.

    Each sibling comes from q without the tokens before it, renormalised. All are drawn at once:
    the largest of q(x) / E(x) with E(x) exponential are such draws, in their order (Efraimidis and
    Spirakis 2006; "Gumbel top-k", Kool et al. 2019, arXiv 1903.06059).

    Args:
        draft_probs: (requests, vocab) q.
        spine: (requests,) the token drawn from q.
        width: candidates wanted, the spine's token among them, at most vocab.

    Returns:
        (requests, width - 1) tokens in the order drawn; -1 where q has no more.
    """
    # A draw may round to zero, and zero by zero is no number.
    arrival = torch.empty_like(draft_probs).exponential_()
    arrival.clamp_(min=torch.finfo(arrival.dtype).tiny)
    return _largest(draft_probs / arrival, spine, width)


def best_siblings(draft_probs: torch.Tensor, spine: torch.Tensor, width: int) -> torch.Tensor:
    """The most likely tokens of q but the spine's, for greedy decoding.

    Arguments and returned value are those of `draw_siblings`, the most likely token first.
    """
    return _largest(draft_probs, spine, width)


def verify_tree_greedy(
    target_tokens: Longs, candidates: Longs, draft_len: Longs
) -> TreeVerdict[Longs]:
    """Follow the target's argmax along the spine, and to a sibling where the spine misses it.

    On the host, as `verify_greedy`.

    Args:
        target_tokens: (requests, 1 + K * width) the target's argmax after each column of the
            `TreeBlock`.
        candidates: (requests, K, width) the spine's token and its siblings, all different; -1
            where one is missing.
        draft_len: (requests,) depths that count, at most K.

    Returns:
        The accepted tokens and `next_token` are `target_tokens` along the path.
    """
    _, most, width = candidates.shape
    along_spine = target_tokens[:, : most + 1]
    num_spine = verify_greedy(along_spine, candidates[..., 0], draft_len)
    # Which candidate is the argmax, 0 also where none is; nothing follows the last depth.
    found = np.zeros(along_spine.shape, np.int64)
    found[:, :-1] = (candidates == along_spine[:, :-1, None]).argmax(axis=2)
    rows = np.arange(len(num_spine))
    choice = np.where(num_spine < draft_len, found[rows, num_spine], 0)
    num_accepted = num_spine + (choice > 0)
    column = TreeBlock(most, width).column(num_accepted, choice)
    depths = np.arange(most + 1)
    path = np.where(depths == num_accepted[:, None], column[:, None], depths)
    return TreeVerdict(num_accepted, choice, path, target_tokens[rows, column])


def verify_tree_sampled(
    target_probs: torch.Tensor,
    draft_probs: torch.Tensor,
    candidates: torch.Tensor,
    draft_len: torch.Tensor,
    uniforms: torch.Tensor,
) -> TreeVerdict[torch.Tensor]:
    """Test the candidates of a depth in turn, each against what the ones before it left over.

    With p_1 = p and q_1 = q, candidate x_i is accepted with probability min(1, p_i(x_i) /
    q_i(x_i)); after a rejection

        p_{i+1} = norm(max(p_i - q_i, 0)),  q_{i+1} = norm(q_i without x_i).

    When all are rejected the next token comes from the last p_i. The spine's token is x_1: below
    it the next depth is tested. A sibling is a leaf: the token that follows it comes from p after
    it.

    Why emitted tokens are distributed as p: given the candidates that were rejected, x_i is drawn
    from q_i, so that accepting it or else going on with law p_{i+1} gives law p_i (Leviathan et
    al. 2023, theorem 3.5); by induction from the last candidate back, all of them together give
    p_1. Testing candidates in turn is SpecInfer's (Miao et al. 2023, arXiv 2305.09781, algorithm
    2); without replacement it is Sequoia's (Chen et al. 2024, arXiv 2402.12374) and RSD's (Jeon et
    al. 2024, arXiv 2402.14160).

    Args:
        target_probs: (requests, 1 + K * width, vocab) p after each column of the `TreeBlock`.
        draft_probs: (requests, K, vocab) q at each depth.
        candidates: (requests, K, width) the spine's token drawn from q, then `draw_siblings`; -1
            from the first missing one on. Which are missing may depend on q alone.
        draft_len: (requests,) depths that count, at most K.
        uniforms: (requests, K, width) draws from [0, 1).
    """
    _, most, width = candidates.shape
    index = candidates[..., :1].clamp(min=0)
    p_drawn = target_probs[:, :most].gather(2, index).squeeze(2)
    q_drawn = draft_probs.gather(2, index).squeeze(2)
    num_spine = leading_true(uniforms[..., 0] * q_drawn < p_drawn, draft_len)

    rows = torch.arange(len(num_spine), device=num_spine.device)
    law = target_probs[rows, num_spine]  # of the token after the spine's accepted ones
    choice = torch.zeros_like(num_spine)
    if most:
        # Siblings count at one depth only, so that the vocabulary is gone through `width` times.
        at = num_spine.clamp(max=most - 1)
        choice, law = _try_siblings(
            law, draft_probs[rows, at], candidates[rows, at], num_spine < draft_len,
            uniforms[rows, at],
        )  # fmt: skip
    taken = choice > 0
    num_accepted = num_spine + taken
    column = TreeBlock(most, width).column(num_accepted, choice)
    depths = torch.arange(most + 1, device=column.device)
    path = torch.where(depths == num_accepted[:, None], column[:, None], depths)
    law = torch.where(taken[:, None], target_probs[rows, column], law)
    return TreeVerdict(num_accepted, choice, path, torch.multinomial(law, 1).squeeze(1))


def _try_siblings(
    p: torch.Tensor,
    q: torch.Tensor,
    candidates: torch.Tensor,
    missed: torch.Tensor,
    uniforms: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The sibling taken (requests,), 0 for none, and the last p_i (requests, vocab).

    `p` and `q` (requests, vocab), `candidates` and `uniforms` (requests, width) are those of the
    first depth whose spine token is not accepted; `missed` (requests,) says where that is because
    it was rejected rather than not proposed.
    """
    choice = torch.zeros_like(candidates[:, 0])
    p = torch.where(missed[:, None], _residual(p, q), p)
    for place in range(1, candidates.shape[1]):
        q = _without(q, candidates[:, place - 1].clamp(min=0))
        index = candidates[:, place, None].clamp(min=0)
        tested = missed & (candidates[:, place] >= 0)
        passed = uniforms[:, place] * q.gather(1, index)[:, 0] < p.gather(1, index)[:, 0]
        choice = torch.where(tested & passed, place, choice)
        missed = tested & ~passed
        p = torch.where(missed[:, None], _residual(p, q), p)
    return choice, p


def _residual(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    """norm(max(p - q, 0)); where p == q up to rounding leaves none, p, as it is in the limit."""
    rest = (p - q).clamp(min=0)
    total = rest.sum(dim=1, keepdim=True)
    return torch.where(total > 0, rest / total, p)


def _without(q: torch.Tensor, token: torch.Tensor) -> torch.Tensor:
    """norm(q without token (requests,)); zero where nothing is left."""
    rest = q.scatter(1, token[:, None], 0.0)
    total = rest.sum(dim=1, keepdim=True)
    return rest / torch.where(total > 0, total, 1.0)


def _largest(weights: torch.Tensor, spine: torch.Tensor, width: int) -> torch.Tensor:
    """Tokens (requests, width - 1) of the largest positive weights but the spine's, else -1."""
    values, tokens = weights.scatter(1, spine[:, None], 0.0).topk(width - 1, dim=1)
    return torch.where(values > 0, tokens, -1)
