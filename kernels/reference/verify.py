"""Chain verification in plain torch; see `flyball.kernels.verify`."""

from __future__ import annotations

import torch

from flyball.kernels.philox import uniforms
from flyball.kernels.reference.draw import distributions, draw, leading_true, single
from flyball.kernels.verify import Verification, Verified


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
    """Every column of every row, at once."""
    most, vocab = draft_tokens.shape[1], target_logits.shape[2]
    columns = torch.arange(most + 1, device=target_logits.device)
    to_test, to_draw = uniforms(
        seeds[:, None], places[:, None] + columns, torch.zeros_like(columns)[None]
    )
    p, none = distributions(target_logits, temperature)
    q = draft_distributions(draft, draft_tokens, certain, vocab).to(p.dtype)
    tokens = draft_tokens.clamp(0, vocab - 1)[..., None]  # beyond draft_len anything may stand
    p_drawn = p[:, :most].gather(2, tokens).squeeze(2)
    q_drawn = q.gather(2, tokens).squeeze(2)
    proposed = columns[:most] < draft_len[:, None]
    if method == "block":
        chance, kept = _block_chances(p, q, p_drawn / q_drawn, draft_len)
        passed = proposed & (to_test[:, :most] < chance)
        num_accepted = _last_true(passed)
        rests_on = (columns < draft_len[:, None]) | (columns == num_accepted[:, None])
        # Prefixes are tried from the longest one on, up to the one that passes.
        tried = columns[:most] >= num_accepted[:, None]
        unknown = (kept[:, 1:].isnan() | (chance.isnan() & tried)) & proposed
    else:
        kept = torch.ones_like(p[..., 0])
        accept = to_test[:, :most] * q_drawn.double() < p_drawn.double()
        num_accepted = leading_true(accept, draft_len)
        rests_on = columns <= num_accepted[:, None]
        unknown = q_drawn.isnan() & proposed & rests_on[:, :most]

    at = num_accepted[:, None]
    p_row = _at(p, at)
    left = kept.gather(1, at) * p_row - _at(torch.nn.functional.pad(q, (0, 0, 0, 1)), at)
    rest = torch.where((num_accepted < draft_len)[:, None], left.clamp(min=0), p_row)
    total = rest.sum(dim=1, keepdim=True)
    # p == q up to rounding leaves no residual; p is its limit.
    next_token = draw(torch.where(total > 0, rest, p_row), to_draw.gather(1, at)[:, 0])

    bad = (none & rests_on).any(dim=1) | unknown.any(dim=1) | total[:, 0].isnan()
    seen = (columns[:most] <= at) & proposed & ~bad[:, None]
    probs = torch.nn.functional.pad(p_drawn, (0, 1))
    probs = torch.where(columns == at, p_row.gather(1, next_token[:, None]), probs)
    overlap = None
    if wants_overlap:
        overlap = torch.minimum(p[:, :most], q).sum(dim=-1).masked_fill(~seen, torch.nan)
    return Verified(
        num_accepted.masked_fill(bad, 0),
        next_token.masked_fill(bad, -1),
        (p_drawn / q_drawn).masked_fill(~seen, torch.nan),
        probs.masked_fill((columns > at) | bad[:, None], torch.nan),
        bad,
        overlap,
    )


def draft_distributions(
    draft: torch.Tensor | None,
    draft_tokens: torch.Tensor,
    certain: torch.Tensor | None,
    vocab: int,
) -> torch.Tensor:
    """Q (requests, K, vocab) that each drafted token was drawn from; see `verify`."""
    tokens = draft_tokens.clamp(0, vocab - 1)[..., None]
    shape = (*draft_tokens.shape, vocab)
    dtype = torch.float32 if draft is None else single(draft).dtype
    points = torch.zeros(shape, dtype=dtype, device=draft_tokens.device).scatter_(2, tokens, 1.0)
    if draft is None:
        return points
    q = points.clone()
    q[:, : draft.shape[1]] = draft
    return q if certain is None else torch.where(certain[:, None, None], points, q)


def _block_chances(
    p: torch.Tensor, q: torch.Tensor, ratio: torch.Tensor, draft_len: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Chances h (requests, K) of prefixes of 1 to K tokens, and P (requests, K + 1)."""
    width = q.shape[1]
    kept = torch.ones_like(p[..., 0])
    chance = torch.empty_like(ratio)
    for place in range(width):
        kept[:, place + 1] = (kept[:, place] * ratio[:, place]).clamp(max=1)
        if place:
            scaled = kept[:, place, None] * p[:, place]
            surplus = (scaled - q[:, place]).clamp(min=0).sum(dim=1)  # Z
            spare = surplus + 1 - kept[:, place]  # 0 where P = 1 and p == q: all is kept
            chance[:, place - 1] = torch.where(spare == 0, 1.0, surplus / spare)
    places = torch.arange(1, width + 1, device=ratio.device)
    return torch.where(places == draft_len[:, None], kept[:, 1:], chance), kept


def _last_true(passed: torch.Tensor) -> torch.Tensor:
    """Columns (requests,) up to the last that is true, 0 where none of (requests, K) is."""
    places = torch.arange(passed.shape[1] + 1, device=passed.device)
    result: torch.Tensor = (torch.nn.functional.pad(passed, (1, 0)) * places).amax(dim=1)
    return result


def _at(values: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """Of values (requests, n, vocab) those (requests, vocab) of one column each (requests, 1)."""
    rows = torch.arange(len(values), device=values.device)
    return values[rows, columns[:, 0]]
