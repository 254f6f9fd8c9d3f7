"""Block verification keeps the target's distribution, and more of the draft.

Drafts of up to DEPTH tokens over VOCAB, on a tree of contexts with distributions of their own; a
draft ends where its confidence says so. Chi-square over all texts of DEPTH + 1 tokens, false-alarm
rate 1e-4, fixed seeds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from text_statistics import count_texts, p_value

from flyball.kernels import verify
from flyball.kernels.verify import verify_block, verify_sampled

VOCAB, DEPTH, DRAWS = 4, 3, 400_000
FALSE_ALARM_RATE = 1e-4
Verify = Callable[..., tuple[torch.Tensor, torch.Tensor]]


class Tree:
    """Target and draft: a distribution for every text of up to DEPTH tokens."""

    def __init__(self, seed: int, noise: float) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.p, self.q = [], []
        for depth in range(DEPTH + 1):
            logits = 1.5 * torch.randn(VOCAB**depth, VOCAB, generator=generator).double()
            other = noise * torch.randn(VOCAB**depth, VOCAB, generator=generator).double()
            self.p.append(logits.softmax(-1))
            self.q.append((logits + other).softmax(-1))

    def expected(self) -> np.ndarray:
        """Probability of every text of DEPTH + 1 tokens."""
        probs = torch.ones(1, dtype=torch.float64)
        for p in self.p:
            probs = (probs[:, None] * p).ravel()
        return probs.numpy()

    def draw(self, check: Verify, generator: torch.Generator) -> tuple[np.ndarray, torch.Tensor]:
        """Texts (draws, DEPTH + 1), of one round each and then of the target; accepted counts."""
        node = torch.zeros(DRAWS, dtype=torch.long)
        nodes, tokens = [node], []
        draft_len, going = (
            torch.zeros(DRAWS, dtype=torch.long),
            torch.ones(DRAWS, dtype=torch.bool),
        )
        for depth in range(DEPTH):
            q = self.q[depth][node]
            going = going & (q.amax(1) > 0.35)  # known before the token is drawn
            draft_len += going
            tokens.append(torch.multinomial(q, 1, generator=generator).squeeze(1))
            node = node * VOCAB + tokens[-1]
            nodes.append(node)
        drafted = torch.stack(tokens, 1)
        p = torch.stack([self.p[depth][nodes[depth]] for depth in range(DEPTH + 1)], 1)
        q = torch.stack([self.q[depth][nodes[depth]] for depth in range(DEPTH)], 1)
        uniforms = torch.rand(DRAWS, DEPTH, generator=generator, dtype=torch.float64)
        accepted, following = check(p, q, drafted, draft_len, uniforms)
        texts = torch.cat([drafted, following[:, None]], 1)
        texts.scatter_(1, accepted[:, None], following[:, None])
        node = torch.zeros(DRAWS, dtype=torch.long)
        for depth in range(DEPTH + 1):
            own = torch.multinomial(self.p[depth][node], 1, generator=generator).squeeze(1)
            texts[:, depth] = torch.where(depth > accepted, own, texts[:, depth])
            node = node * VOCAB + texts[:, depth]
        return texts.numpy(), accepted


def chi_square(check: Verify, seed: int, noise: float) -> tuple[float, float]:
    """The p-value of the texts, and the mean number of accepted tokens."""
    torch.manual_seed(seed)
    tree = Tree(seed, noise)
    texts, accepted = tree.draw(check, torch.Generator().manual_seed(seed + 1))
    found = p_value(count_texts(texts, VOCAB), tree.expected())
    return found, float(accepted.double().mean())


@pytest.mark.parametrize("noise", [0.3, 1.0, 3.0])
@pytest.mark.parametrize("seed", range(3))
def test_texts_are_the_targets_and_more_of_the_draft_is_kept(seed: int, noise: float) -> None:
    one_by_one, fewer = chi_square(verify_sampled, seed, noise)
    block, more = chi_square(verify_block, seed, noise)
    assert min(one_by_one, block) > FALSE_ALARM_RATE
    assert more > fewer


def test_a_wrong_residual_or_end_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def residual_of_one_token(p: Any, q: Any, tokens: Any, draft_len: Any, uniforms: Any) -> Any:
        accepted, _ = verify_block(p, q, tokens, draft_len, uniforms)
        rows = torch.arange(len(p))
        rest = (p[rows, accepted] - q[rows, accepted.clamp(max=DEPTH - 1)]).clamp(min=0)
        ended = (accepted == draft_len)[:, None]
        return accepted, verify._draw(
            torch.where(ended, p[rows, accepted], rest), p[rows, accepted]
        )

    def end_of_the_longest(p: Any, q: Any, tokens: Any, draft_len: Any, uniforms: Any) -> Any:
        accepted, _ = verify_block(p, q, tokens, torch.full_like(draft_len, DEPTH), uniforms)
        return verify_block(p, q, tokens, torch.minimum(accepted, draft_len), uniforms * 0)

    for mutant in (residual_of_one_token, end_of_the_longest):
        assert chi_square(mutant, 0, 1.0)[0] < FALSE_ALARM_RATE


def test_rows_without_a_draft_and_columns_beyond_one_are_left_alone() -> None:
    p = torch.softmax(torch.randn(3, 3, 5, generator=torch.Generator().manual_seed(0)), -1)
    q = p[:, :2].clone()
    q[0], q[1, 1] = 0.0, 0.0  # nothing was drawn there
    tokens = torch.zeros(3, 2, dtype=torch.long)
    draft_len = torch.tensor([0, 1, 2])
    accepted, following = verify_block(p, q, tokens, draft_len, torch.full((3, 2), 0.999))
    assert accepted.tolist() == [0, 1, 2]
    assert ((following >= 0) & (following < 5)).all()
    nothing = verify_block(p[:, :1], q[:, :0], tokens[:, :0], draft_len * 0, torch.zeros(3, 0))
    assert nothing[0].tolist() == [0, 0, 0]
