"""Mixtures of several drafts' distributions, and what a verified position says about them.

m members propose q_1 .. q_m, a drafted token is drawn from sum_j w_j q_j, and the target's p tells
at every verified position what each member, or each mixture, would have been worth. Members that
were not asked at a position are absent there: what stands in their place is never looked at.
Half precision is computed in single precision.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from flyball.kernels.dispatch import implementation

_LEAST = 1e-10  # a probability of 0 costs this much: 23 nats, so that divergences stay finite
_NUM_CANDIDATES = 8  # tokens a member
_MOST_ELEMENTS = 2**24  # of a temporary tensor


def share(weights: torch.Tensor, present: torch.Tensor | None = None) -> torch.Tensor:
    """Weights shared anew among the members that are present.

    Args:
        weights: (..., m) at least 0; those of the present members need not sum to 1, and where
            they sum to 0 the present members weigh alike.
        present: (..., m) bool, at least one member in each row; None where all are.

    Returns:
        (..., m) of sum 1, 0 for absent members.
    """
    there = torch.ones_like(weights) if present is None else present.to(weights.dtype)
    weights = weights * there
    weights = torch.where(weights.sum(dim=-1, keepdim=True) > 0, weights, there)
    return weights / weights.sum(dim=-1, keepdim=True)


def mix(probs: torch.Tensor, shares: torch.Tensor) -> torch.Tensor:
    """The mixture sum_j w_j q_j, the distribution that a token is drawn from and judged by.

    Args:
        probs: (rows, m, vocab) distributions of the members, finite ones for absent members too.
        shares: (rows, m) weights of sum 1; see `share`.

    Returns:
        (rows, vocab).
    """
    probs = _single(probs)
    return (shares.to(probs)[:, None] @ probs).squeeze(1)


@dataclass(frozen=True, slots=True)
class Drawn:
    """A token drawn from a mixture.

    Attributes:
        token: (rows,) drawn, or the mixture's argmax; -1 where a member that has a share has a NaN
            or no finite logit.
        prob: (rows,) the mixture's at the token; NaN there.
        log_sum_exp: (rows, m) of the members' logits by the temperature: their distributions are
            exp(logits / temperature - log_sum_exp). NaN without a share.
    """

    token: torch.Tensor
    prob: torch.Tensor
    log_sum_exp: torch.Tensor


def mix_draw(
    logits: torch.Tensor,
    shares: torch.Tensor,
    seeds: torch.Tensor,
    places: torch.Tensor,
    *,
    temperature: float = 1.0,
    greedy: bool = False,
) -> Drawn:
    """Draw a token from sum_j w_j softmax(logits_j / temperature).

    The token is argmax_v(log mixture(v) + g[seed, place, v]) with the noise of
    `philox.token_noise`: the draw that a target with the same seed makes of its own distribution,
    which it therefore often meets.

    Args:
        logits: (rows, m, vocab) of the members, -inf where a token is masked.
        shares: (rows, m) weights of sum 1, 0 for absent members, whose logits are never looked at;
            see `share`.
        seeds: (rows,) int64.
        places: (rows,) int64, of the token in its text.
        temperature: positive.
        greedy: whether to take the mixture's argmax.
    """
    found: Drawn = implementation("mix", logits).mix_draw(
        logits, shares, seeds, places, temperature=temperature, greedy=greedy
    )
    return found


def overlap(
    p: torch.Tensor, q: torch.Tensor, present: torch.Tensor | None = None, greedy: bool = False
) -> torch.Tensor:
    """How much of each member alone is accepted: sum_x min(p, q_j) = 1 - TV(p, q_j).

    Leviathan et al. 2023 (arXiv 2211.17192), theorem 3.5. Under greedy decoding it is 1 where
    both have the same argmax, otherwise 0.

    Args:
        p: (N, vocab) the target's distributions.
        q: (N, m, vocab) the members'.
        present: (N, m) bool; None where all are.
        greedy: whether the target decodes greedily.

    Returns:
        (N, m) in [0, 1], NaN for absent members.
    """
    if greedy:
        found = (q.argmax(dim=-1) == p.argmax(dim=-1)[:, None]).to(_single(p).dtype)
    else:
        found = torch.minimum(_single(p)[:, None], _single(q)).sum(dim=-1)
    return _absent_nan(found, present)


def ascent(
    p: torch.Tensor, q: torch.Tensor, mixture: torch.Tensor, present: torch.Tensor | None = None
) -> torch.Tensor:
    """Supergradient in w of the acceptance f(w) = sum_x min(p(x), sum_j w_j q_j(x)).

        g_j = sum_x q_j(x) [mixture(x) < p(x)],   f(v) <= f(w) + g . (v - w)  for every v

    f is concave: a sum of minima of linear functions. Where mixture(x) = p(x) the derivative
    jumps, and any share of q_j(x) between none and all, the same for all members, leaves a
    supergradient; none is taken, so that nothing is gained once the mixture is the target.

    Args:
        p: (N, vocab) the target's distributions.
        q: (N, m, vocab) the members'.
        mixture: (N, vocab) at the weights w where the supergradient is wanted; see `mix`.
        present: (N, m) bool; None where all are.

    Returns:
        (N, m) in [0, 1], NaN for absent members.
    """
    q = _single(q)
    below = (_single(mixture) < _single(p)).to(q.dtype)
    return _absent_nan((q @ below[..., None]).squeeze(-1), present)


def divergence(
    p: torch.Tensor, q: torch.Tensor, present: torch.Tensor | None = None
) -> torch.Tensor:
    """How far each member is from the target: KL(p || q_j) in nats, and sum_x |p - q_j|.

    Probabilities of the members count as at least 1e-10, so that both are finite.

    Args:
        p: (N, vocab) the target's distributions.
        q: (N, m, vocab) the members'.
        present: (N, m) bool; None where all are.

    Returns:
        (N, m, 2), NaN for absent members.
    """
    p, q = _single(p), _single(q)
    kl = _divergence(p, q)
    distance = (p[:, None] - q).abs().sum(dim=-1)
    return torch.stack([_absent_nan(kl, present), _absent_nan(distance, present)], dim=-1)


def grid_hits(
    p: torch.Tensor, q: torch.Tensor, grid: torch.Tensor, present: torch.Tensor | None = None
) -> torch.Tensor:
    """Which mixtures would have drafted the target's argmax.

        hit = [argmax_x sum_j v_j q_j(x) = argmax_x p(x)]  for every v of the grid

    The argmax is sought among the 8 most probable tokens of each member, and p's argmax. Any other
    token has at most the mixture of the members' 9th probabilities, which is at most 1/9: the
    result is exact wherever the mixture gives some token more than that. Below, a token that is in
    no member's first 8, yet leads the mixture, may be missed; a hit is never denied. Nor is it
    where another token is exactly as probable.

    Args:
        p: (N, vocab) the target's distributions.
        q: (N, m, vocab) the members'.
        grid: (G, m) weight vectors, shared anew among the present members.
        present: (N, m) bool; None where all are.

    Returns:
        (N, G) of 0 and 1.
    """
    q = _single(q)
    hit = p.argmax(dim=-1, keepdim=True)
    most = q.topk(min(_NUM_CANDIDATES, q.shape[-1]), dim=-1).indices.flatten(start_dim=1)
    tokens = torch.cat([hit, most], dim=1)[:, None]  # (N, 1, candidates)
    q = q.gather(2, tokens.expand(-1, q.shape[1], -1))
    parts = [mixture[..., 0] >= mixture.amax(dim=-1) for mixture in _mixtures(q, grid, present)]
    return torch.cat(parts, dim=1).to(q.dtype)


def grid_kl(
    p: torch.Tensor, q: torch.Tensor, grid: torch.Tensor, present: torch.Tensor | None = None
) -> torch.Tensor:
    """KL(p || sum_j v_j q_j) in nats for every v of the grid, over the whole vocabulary.

    It computes G logarithms a token of the vocabulary, a part of the grid at a time. The mixture
    counts as at least 1e-10.

    Args:
        p: (N, vocab) the target's distributions.
        q: (N, m, vocab) the members'.
        grid: (G, m) weight vectors, shared anew among the present members.
        present: (N, m) bool; None where all are.

    Returns:
        (N, G).
    """
    p, q = _single(p), _single(q)
    parts = [_divergence(p, mixture) for mixture in _mixtures(q, grid, present)]
    return torch.cat(parts, dim=1)


def evidence(
    kind: str,
    p: torch.Tensor,
    q: torch.Tensor,
    present: torch.Tensor | None,
    grid: torch.Tensor,
    *,
    greedy: bool,
    reads_kl: bool,
) -> torch.Tensor:
    """What a policy learns from (N, ...), by its name of the kind; see `ascent` for that one.

    Args:
        kind: "overlap", "divergence" or "grid", which is hits and KL (N, G, 2).
        p: (N, vocab) the target's distributions.
        q: (N, m, vocab) the members'.
        present: (N, m) bool; None where all are.
        grid: (G, m) weight vectors.
        greedy: whether the target decodes greedily.
        reads_kl: whether KL of the grid is wanted; NaN otherwise.
    """
    if kind == "overlap":
        return overlap(p, q, present, greedy)
    if kind == "divergence":
        return divergence(p, q, present)
    hits = grid_hits(p, q, grid, present)
    kl = grid_kl(p, q, grid, present) if reads_kl else torch.full_like(hits, torch.nan)
    return torch.stack([hits, kl], dim=-1)


def _single(probs: torch.Tensor) -> torch.Tensor:
    """Half precision as single precision."""
    return probs.float() if probs.element_size() < 4 else probs


def _absent_nan(values: torch.Tensor, present: torch.Tensor | None) -> torch.Tensor:
    return values if present is None else values.masked_fill(~present, torch.nan)


def _mixtures(
    q: torch.Tensor, grid: torch.Tensor, present: torch.Tensor | None
) -> Iterator[torch.Tensor]:
    """The mixtures (N, part of the grid, vocab) of members (N, m, vocab), part by part."""
    if present is not None:
        q = q.masked_fill(~present[..., None], 0.0)
        present = present[:, None]
    weights = share(grid.to(q).expand(len(q), -1, -1), present)
    size = max(1, _MOST_ELEMENTS // max(1, len(q) * q.shape[-1]))
    for part in weights.split(size, dim=1):
        yield part @ q


def _divergence(p: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """KL (N, k) of p (N, vocab) from others (N, k, vocab)."""
    entropy = torch.special.entr(p).sum(dim=-1, keepdim=True)
    crossed = (others.clamp(min=_LEAST).log() @ p[..., None]).squeeze(-1)
    result: torch.Tensor = (-crossed - entropy).clamp(min=0)
    return result
