"""How near the best fixed mixture policies come on made-up texts whose best draft switches.

Target and drafts are softmax distributions over VOCAB tokens; a draft's logits are the target's
plus noise of its own size, partly common to all drafts. Fixed seeds; with two others every
assertion held as well.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from flyball.controller.policy_file import load_policy
from flyball.kernels.mix import ascent, grid_hits, grid_kl, mix
from flyball.policies.ensemble.base import EnsemblePolicy, Floats, simplex_grid

VOCAB, TEXTS, LENGTH, ROUND = 32, 16, 144, 4
SETTLED = 48  # positions after a switch
NOISE = {2: (0.3, 1.1), 3: (0.3, 0.9, 1.2), 4: (0.3, 1.0, 1.0, 1.2)}


@dataclass
class Texts:
    """p (texts, length, vocab) and q (texts, length, m, vocab) of many texts at once."""

    p: torch.Tensor
    q: torch.Tensor

    def after(self, first: int, last: int | None = None) -> Texts:
        return Texts(self.p[:, first:last], self.q[:, first:last])

    def flat(self) -> tuple[torch.Tensor, torch.Tensor]:
        return self.p.flatten(0, 1), self.q.flatten(0, 1)

    def acceptance(self, weights: torch.Tensor, sampled: bool) -> torch.Tensor:
        """Of weights (texts, m) at each position (texts, length)."""
        p, q = self.flat()
        mixture = mix(q, weights.repeat_interleave(self.p.shape[1], 0))
        if sampled:
            found = torch.minimum(p, mixture).sum(-1)
        else:
            found = (mixture.argmax(-1) == p.argmax(-1)).double()
        return found.view(self.p.shape[:2])

    def best_fixed(self, sampled: bool) -> float:
        """Acceptance of the best mixture in steps of 0.2, the same for all texts."""
        grid = simplex_grid(self.q.shape[2])
        coarse = grid[(np.rint(10.0 * grid) % 2 == 0).all(axis=1)]
        every = [torch.tensor(w).expand(len(self.p), -1) for w in coarse]
        return max(float(self.acceptance(w, sampled).mean()) for w in every)

    def best_single(self, sampled: bool) -> float:
        every = torch.eye(self.q.shape[2]).double()
        return max(
            float(self.acceptance(w.expand(len(self.p), -1), sampled).mean()) for w in every
        )


def make_texts(noise: tuple[float, ...], length: int, common: float, seed: int) -> Texts:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(TEXTS, length, *shape, generator=generator, dtype=torch.float64)

    target, m = 2.5 * normal(VOCAB), len(noise)
    errors = common**0.5 * normal(1, VOCAB) + (1.0 - common) ** 0.5 * normal(m, VOCAB)
    drafts = target[:, :, None] + 2.5 * torch.tensor(noise)[:, None] * errors
    return Texts(target.softmax(-1), drafts.softmax(-1))


def switching(num_members: int, common: float, seed: int = 0) -> Texts:
    """Texts whose drafts change places in the middle."""
    noise = NOISE[num_members]
    first = make_texts(noise, LENGTH, common, seed)
    second = make_texts(noise[::-1], LENGTH, common, seed + 1)
    return Texts(torch.cat([first.p, second.p], 1), torch.cat([first.q, second.q], 1))


def alike(num_members: int, seed: int = 0) -> Texts:
    """Texts whose drafts are equally good and err apart: a mixture beats them all."""
    return make_texts((0.7,) * num_members, LENGTH, 0.0, seed)


def make(name: str, num_members: int) -> EnsemblePolicy:
    file = load_policy({"version": 1, "ensemble": {"policy": name}})
    policy = file.make_ensemble_policy(num_members, np.random.default_rng(0))
    assert policy is not None
    return policy


def play(policy: EnsemblePolicy, texts: Texts, sampled: bool) -> Floats:
    """Acceptance (texts, length) of rounds of ROUND observed positions of all texts."""
    slots = np.arange(TEXTS, dtype=np.int32)
    policy.admit(slots)
    row = np.repeat(np.arange(TEXTS), ROUND)
    grid = torch.tensor(policy.grid)
    found = []
    for first in range(0, texts.p.shape[1], ROUND):
        part = texts.after(first, first + ROUND)
        weights = torch.tensor(policy.decide(slots, sampled))
        found.append(part.acceptance(weights, sampled))
        p, q = part.flat()
        if policy.evidence(sampled) == "ascent":
            values = ascent(p, q, mix(q, weights.repeat_interleave(ROUND, 0)))
        else:
            kl = (
                grid_kl(p, q, grid) if policy.reads_kl else torch.full((len(p), len(grid)), np.nan)
            )
            values = torch.stack([grid_hits(p, q, grid), kl], dim=-1)
        policy.learn(slots, row, values.numpy().astype(np.float64), sampled)
    return torch.cat(found, dim=1).numpy()


@pytest.mark.parametrize("sampled", [True, False])
@pytest.mark.parametrize("common", [0.1, 0.6])
@pytest.mark.parametrize("num_members", [2, 3, 4])
def test_accept_ascent_is_near_the_best_mixture_soon_after_a_switch(
    num_members: int, common: float, sampled: bool
) -> None:
    texts = switching(num_members, common)
    found = play(make("accept_ascent", num_members), texts, sampled)
    for start in (0, LENGTH):
        settled = texts.after(start + SETTLED, start + LENGTH)
        mine = found[:, start + SETTLED : start + LENGTH].mean()
        assert mine > 0.97 * settled.best_fixed(sampled)
        assert mine > 0.985 * settled.best_single(sampled)


@pytest.mark.parametrize("sampled", [True, False])
def test_accept_ascent_follows_a_switch_of_traffic(sampled: bool) -> None:
    texts, policy = switching(3, 0.3), make("accept_ascent", 3)
    for _ in range(3):
        play(policy, texts.after(0, LENGTH), sampled)
    later = texts.after(LENGTH)
    found = play(policy, later, sampled)[:, SETTLED:].mean()
    assert found > 0.97 * later.after(SETTLED).best_fixed(sampled)
    soon = play(policy, later, sampled)[:, :12].mean()  # and these start from what they learned
    assert soon > 0.97 * later.after(0, 12).best_fixed(sampled)


@pytest.mark.parametrize("sampled", [True, False])
def test_accept_ascent_beats_every_member_where_a_mixture_does(sampled: bool) -> None:
    texts = alike(3)
    found = play(make("accept_ascent", 3), texts, sampled)[:, SETTLED:].mean()
    settled = texts.after(SETTLED)
    assert found > 1.03 * settled.best_single(sampled)
    assert found > 0.97 * settled.best_fixed(sampled)


@pytest.mark.parametrize("num_members", [2, 3])
def test_accept_ascent_is_far_above_tabed_after_a_switch(num_members: int) -> None:
    texts = switching(num_members, 0.3)
    mine, theirs = (
        play(make(name, num_members), texts, False)[:, LENGTH + SETTLED :].mean()
        for name in ("accept_ascent", "tabed")
    )
    assert mine > 1.15 * theirs
