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

from flyball.kernels.dispatch import implementation
from flyball.kernels.tree_block import Counts, Longs, TreeBlock
from flyball.kernels.verify import verify_greedy


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


@dataclass(frozen=True, slots=True)
class VerifiedTree(TreeVerdict[torch.Tensor]):
    """What the target made of a sampled tree.

    Attributes:
        target_prob: (requests, K + 1) p of the accepted tokens and of the one that follows, NaN
            behind.
        bad: (requests,) a distribution that the verdict rests on is none, see `verify.Verified`;
            nothing is accepted, and `next_token` is -1.
    """

    target_prob: torch.Tensor
    bad: torch.Tensor


def verify_tree(
    target_logits: torch.Tensor,
    draft: torch.Tensor | None,
    candidates: torch.Tensor,
    draft_len: torch.Tensor,
    seeds: torch.Tensor,
    places: torch.Tensor,
    *,
    temperature: float = 1.0,
    certain: torch.Tensor | None = None,
) -> VerifiedTree:
    """Test the candidates of a depth in turn, each against what the ones before it left over.

    With p_1 = p and q_1 = q, candidate x_i is accepted with probability min(1, p_i(x_i) /
    q_i(x_i)); after a rejection

        p_{i+1} = norm(max(p_i - q_i, 0)),  q_{i+1} = norm(q_i without x_i).

    When all are rejected the next token comes from the last p_i. The spine's token is x_1: below
    it the next depth is tested. A sibling is a leaf: the token that follows it comes from p after
    it. Trees of width 1 get the verdicts of `verify`.

    Why emitted tokens are distributed as p: given the candidates that were rejected, x_i is drawn
    from q_i, so that accepting it or else going on with law p_{i+1} gives law p_i (Leviathan et
    al. 2023, theorem 3.5); by induction from the last candidate back, all of them together give
    p_1. Testing candidates in turn is SpecInfer's (Miao et al. 2023, arXiv 2305.09781, algorithm
    2); without replacement it is Sequoia's (Chen et al. 2024, arXiv 2402.12374) and RSD's (Jeon et
    al. 2024, arXiv 2402.14160).

    Args:
        target_logits: (requests, 1 + K * width, vocab) processed scores after each column of the
            `TreeBlock`, -inf where a token is masked.
        draft: (requests, D, vocab) q at the first D of the K depths; the rest must be certain.
            None where all are.
        candidates: (requests, K, width) the spine's token drawn from q, then `draw_siblings`; -1
            from the first missing one on. Which are missing may depend on q alone.
        draft_len: (requests,) int64, depths that count, at most K.
        seeds: (requests,) int64, as in `verify.verify`.
        places: (requests,) int64, of the first depth in the text.
        temperature: positive; p = softmax(target_logits / temperature).
        certain: (requests,) bool, rows whose spine was not drawn, and has no siblings: q is a
            point mass at each token.
    """
    found: VerifiedTree = implementation("tree", target_logits).verify_tree(
        target_logits,
        draft,
        candidates,
        draft_len,
        seeds,
        places,
        temperature=temperature,
        certain=certain,
    )
    return found


def _largest(weights: torch.Tensor, spine: torch.Tensor, width: int) -> torch.Tensor:
    """Tokens (requests, width - 1) of the largest positive weights but the spine's, else -1."""
    values, tokens = weights.scatter(1, spine[:, None], 0.0).topk(width - 1, dim=1)
    return torch.where(values > 0, tokens, -1)
