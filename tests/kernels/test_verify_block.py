"""Verification keeps the target's distribution, and as a block more of the draft.

Drafts of up to DEPTH tokens over VOCAB, on a tree of contexts with distributions of their own; a
draft ends where its confidence says so. Chi-square over all texts of DEPTH + 1 tokens, false-alarm
rate 1e-4, fixed seeds, 3.6 million draws of each method. They go through the reference; that the
CPU's own way gives the same verdicts, row by row, is `test_verify.py`'s.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from text_statistics import count_texts, p_value

from flyball.kernels.cpu import verify as cpu
from flyball.kernels.philox import uniforms
from flyball.kernels.reference import verify as reference
from flyball.kernels.reference.verify import verify
from flyball.kernels.verify import Verified

VOCAB, DEPTH, DRAWS = 4, 3, 400_000
FALSE_ALARM_RATE = 1e-4
Verify = Callable[..., Verified]


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

    def draw(
        self, check: Verify, method: str, generator: torch.Generator
    ) -> tuple[np.ndarray, torch.Tensor]:
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
        seeds = torch.empty(DRAWS, dtype=torch.long).random_(generator=generator)
        places = torch.full((DRAWS,), 5)
        found = check(p.log(), q, drafted, draft_len, seeds, places, method=method)
        accepted, following = found.num_accepted, found.next_token
        texts = torch.cat([drafted, following[:, None]], 1)
        texts.scatter_(1, accepted[:, None], following[:, None])
        node = torch.zeros(DRAWS, dtype=torch.long)
        for depth in range(DEPTH + 1):
            own = torch.multinomial(self.p[depth][node], 1, generator=generator).squeeze(1)
            texts[:, depth] = torch.where(depth > accepted, own, texts[:, depth])
            node = node * VOCAB + texts[:, depth]
        return texts.numpy(), accepted


def chi_square(check: Verify, method: str, seed: int, noise: float) -> tuple[float, float]:
    """The p-value of the texts, and the mean number of accepted tokens."""
    tree = Tree(seed, noise)
    texts, accepted = tree.draw(check, method, torch.Generator().manual_seed(seed + 1))
    found = p_value(count_texts(texts, VOCAB), tree.expected())
    return found, float(accepted.double().mean())


@pytest.mark.parametrize("noise", [0.3, 1.0, 3.0])
@pytest.mark.parametrize("seed", range(3))
def test_texts_are_the_targets_and_more_of_the_draft_is_kept(seed: int, noise: float) -> None:
    one_by_one, fewer = chi_square(verify, "standard", seed, noise)
    block, more = chi_square(verify, "block", seed, noise)
    assert min(one_by_one, block) > FALSE_ALARM_RATE
    assert more > fewer


@pytest.mark.parametrize("method", ["standard", "block"])
def test_texts_are_the_targets_on_a_cpu(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "DRAWS", 60_000)
    monkeypatch.setattr(cpu, "_MANY_ROWS", 10**9)
    assert chi_square(cpu.verify, method, 0, 1.0)[0] > FALSE_ALARM_RATE


def residual_of_one_token(
    p: Any, q: Any, tokens: Any, draft_len: Any, *rest: Any, method: str
) -> Any:
    """Mutant: the token after a block comes from the residual of standard verification."""
    found = verify(p, q, tokens, draft_len, *rest, method=method)
    rows, accepted = torch.arange(len(p)), found.num_accepted
    law = p[rows, accepted].exp()
    left = (law - q[rows, accepted.clamp(max=DEPTH - 1)]).clamp(min=0)
    left = torch.where((accepted == draft_len)[:, None], law, left)
    left = torch.where(left.sum(1, keepdim=True) > 0, left, law)
    return replace(found, next_token=torch.multinomial(left, 1).squeeze(1))


def end_of_the_longest(
    p: Any, q: Any, tokens: Any, draft_len: Any, *rest: Any, method: str
) -> Any:
    """Mutant: a block is kept as if all rows' drafts were as long as the longest."""
    found = verify(p, q, tokens, torch.full_like(draft_len, DEPTH), *rest, method=method)
    shorter = torch.minimum(found.num_accepted, draft_len)
    again = verify(p, q, tokens, shorter, *rest, method=method)
    return replace(again, num_accepted=shorter)


def test_a_wrong_residual_or_end_of_a_block_is_found() -> None:
    torch.manual_seed(0)
    for mutant in (residual_of_one_token, end_of_the_longest):
        assert chi_square(mutant, "block", 0, 1.0)[0] < FALSE_ALARM_RATE


def one_for_all_columns(seeds: Any, places: Any, candidates: Any) -> Any:
    test, draw = uniforms(seeds, places[:, :1].expand_as(places).contiguous(), candidates)
    return test, draw


def one_to_test_and_to_draw(seeds: Any, places: Any, candidates: Any) -> Any:
    test, _ = uniforms(seeds, places, candidates)
    return test, test


@pytest.mark.parametrize("mutant", [one_for_all_columns, one_to_test_and_to_draw])
@pytest.mark.parametrize("method", ["standard", "block"])
def test_wrong_uniforms_are_found(
    mutant: Any, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reference, "uniforms", mutant)
    assert chi_square(verify, method, 0, 1.0)[0] < FALSE_ALARM_RATE


@pytest.mark.parametrize("method", ["standard", "block"])
def test_a_residual_of_another_draft_is_found(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tested by the q that was drawn from, and drawn from the residual of a flatter one."""
    real = reference._at

    def flatter(values: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
        found = real(values, columns)
        of_draft = values.shape[1] == DEPTH + 1 and bool((values[:, -1] == 0).all())
        return found.sqrt() / found.sqrt().sum(1, keepdim=True).clamp(min=1) if of_draft else found

    monkeypatch.setattr(reference, "_at", flatter)
    assert chi_square(verify, method, 0, 1.0)[0] < FALSE_ALARM_RATE
