"""Tree verification in plain torch; see `flyball.kernels.tree`."""

from __future__ import annotations

import torch

from flyball.kernels.philox import uniforms
from flyball.kernels.reference.draw import distributions, draw, leading_true
from flyball.kernels.reference.verify import draft_distributions
from flyball.kernels.tree import VerifiedTree
from flyball.kernels.tree_block import TreeBlock


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
    """Every column of every row, at once, but siblings of the one depth at which they count."""
    _, most, width = candidates.shape
    depths = torch.arange(most + 1, device=candidates.device)
    numbers = torch.arange(width, device=candidates.device)
    to_test, to_draw = uniforms(
        seeds[:, None, None], (places[:, None] + depths)[..., None], numbers[None, None]
    )
    p, none = distributions(target_logits, temperature)
    q = draft_distributions(draft, candidates[..., 0], certain, p.shape[2]).to(p.dtype)
    index = candidates[..., :1].clamp(min=0)
    p_drawn = p[:, :most].gather(2, index).squeeze(2)
    q_drawn = q.gather(2, index).squeeze(2)
    accept = to_test[:, :most, 0] * q_drawn.double() < p_drawn.double()
    num_spine = leading_true(accept, draft_len)

    rows = torch.arange(len(num_spine), device=num_spine.device)
    law = p[rows, num_spine]  # of the token after the spine's accepted ones
    choice = torch.zeros_like(num_spine)
    if most:
        # Siblings count at one depth only, so that the vocabulary is gone through `width` times.
        at = num_spine.clamp(max=most - 1)
        choice, law = _try_siblings(
            law, q[rows, at], candidates[rows, at], num_spine < draft_len, to_test[rows, at]
        )
    bad = law.isnan().any(dim=1) | (none[:, : most + 1] & (depths <= num_spine[:, None])).any(1)
    column = TreeBlock(most, width).column(num_spine + (choice > 0), choice)
    bad |= none[rows, column]
    choice = choice.masked_fill(bad, 0)
    num_accepted = (num_spine + (choice > 0)).masked_fill(bad, 0)
    column = column.masked_fill(bad, 0)
    beside = (choice > 0)[:, None]
    law = torch.where(beside, p[rows, column], law)
    next_token = draw(law, to_draw[rows, num_accepted, 0])

    probs = torch.nn.functional.pad(p_drawn, (0, 1))
    if most:
        sibling = candidates[rows, at].gather(1, choice[:, None]).clamp(min=0)
        above = p[rows, at].gather(1, sibling)  # what a sibling stands for follows the spine
        probs = torch.where(beside & (depths == at[:, None]), above, probs)
    last = p[rows, column].gather(1, next_token[:, None])
    probs = torch.where(depths == num_accepted[:, None], last, probs)
    return VerifiedTree(
        num_accepted,
        choice,
        torch.where(depths == num_accepted[:, None], column[:, None], depths),
        next_token.masked_fill(bad, -1),
        probs.masked_fill((depths > num_accepted[:, None]) | bad[:, None], torch.nan),
        bad,
    )


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
    return torch.where(total == 0, p, rest / total)


def _without(q: torch.Tensor, token: torch.Tensor) -> torch.Tensor:
    """norm(q without token (requests,)); zero where nothing is left."""
    rest = q.scatter(1, token[:, None], 0.0)
    total = rest.sum(dim=1, keepdim=True)
    return rest / torch.where(total > 0, total, 1.0)
