"""Verification a row and a token at a time, in plain Python: what the kernels are held against."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from flyball.kernels.philox import uniforms

Call = dict[str, Any]


def random_call(
    seed: int,
    requests: int,
    num_drafted: int,
    vocab: int,
    *,
    noise: float = 1.0,
    masked: float = 0.0,
    dtype: torch.dtype = torch.float64,
) -> Call:
    """Arguments of `verify`: drafts of all lengths, drawn from a q around p."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2.0 * torch.randn(requests, num_drafted + 1, vocab, generator=generator).double()
    other = noise * torch.randn(requests, num_drafted, vocab, generator=generator).double()
    q = (logits[:, :num_drafted] + other).softmax(-1).to(dtype)
    flat = q.double().view(-1, vocab)
    tokens = torch.multinomial(flat, 1, generator=generator) if len(flat) else torch.zeros(0, 1)
    cut = torch.rand(logits.shape, generator=generator) < masked
    cut[..., 0] = False
    return {
        "target_logits": logits.masked_fill(cut, -torch.inf).to(dtype),
        "draft": q,
        "draft_tokens": tokens.long().view(requests, num_drafted),
        "draft_len": torch.randint(0, num_drafted + 1, (requests,), generator=generator),
        "seeds": torch.empty(requests, dtype=torch.long).random_(generator=generator),
        "places": torch.randint(0, 2**31, (requests,), generator=generator),
    }


def rows_of(call: Call, rows: torch.Tensor) -> Call:
    """The same with some rows only, in another order."""
    per_row = {name: value for name, value in call.items() if isinstance(value, torch.Tensor)}
    return {**call, **{name: value[rows] for name, value in per_row.items()}}


def inverse_cdf(weights: np.ndarray, uniform: float) -> int:
    """The first token whose cumulated weight exceeds its share of the total."""
    sums = np.cumsum(weights)
    return int(np.flatnonzero(sums > uniform * sums[-1])[0])


def plain_row(call: Call, row: int, method: str, temperature: float) -> tuple[int, int]:
    """Accepted tokens of a row and the one that follows, in float64."""
    scaled = call["target_logits"][row].double() / temperature
    p = scaled.softmax(-1).numpy()
    length = int(call["draft_len"][row])
    tokens = call["draft_tokens"][row].tolist()[:length]
    certain = call["draft"] is None
    q = np.eye(p.shape[1])[tokens] if certain else call["draft"][row].double().numpy()
    places = call["places"][row] + torch.arange(length + 1)
    test, draw = (
        u.numpy() for u in uniforms(call["seeds"][row, None], places, torch.zeros(1).long())
    )
    ratio = [p[i, x] / q[i, x] for i, x in enumerate(tokens)]
    if method == "standard":
        accepted = next((i for i, r in enumerate(ratio) if test[i] >= r), length)
        scale = 1.0
    else:
        kept = [1.0]
        for r in ratio:
            kept.append(min(kept[-1] * r, 1.0))
        accepted = length
        while accepted:
            chance = kept[accepted]
            if accepted < length:
                surplus = np.maximum(chance * p[accepted] - q[accepted], 0).sum()
                chance = surplus / (surplus + 1 - chance) if surplus + 1 - chance else 1.0
            if test[accepted - 1] < chance:
                break
            accepted -= 1
        scale = kept[accepted]
    rest = p[accepted]
    if accepted < length:
        rest = np.maximum(scale * p[accepted] - q[accepted], 0)
    return accepted, inverse_cdf(rest, float(draw[accepted]))
