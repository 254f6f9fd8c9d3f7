"""Rules that walk over finished texts, and what the benchmark of ensembles makes of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from benchmarks.ensemble_modes import DRAFT_LEN, VIEWS
from benchmarks.ensemble_texts import ReadText, grid_acceptance, walk
from benchmarks.ensemble_tracking import RULES, make, schedule, track

from flyball.demo.vlm_data import SCENARIOS
from flyball.policies.ensemble.base import simplex_grid

NUM_TOKENS, VOCAB = 62, 32


def text(seed: int, right: int) -> ReadText:
    """A text that one member foresees and the others do not."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(1, VOCAB, (NUM_TOKENS,), generator=generator)
    p = torch.full((NUM_TOKENS, VOCAB), 0.01).scatter_(1, tokens[:, None], 1.0 - 0.01 * 31)
    q = torch.full((NUM_TOKENS, len(VIEWS), VOCAB), 0.01)
    q[:, :, 0] = 1.0 - 0.01 * 31
    q[:, right] = p
    return ReadText(tokens, p, q, torch.rand(NUM_TOKENS, generator=generator).double())


@pytest.mark.parametrize("sampled", [False, True])
def test_all_tokens_of_a_member_that_is_the_target_are_accepted(sampled: bool) -> None:
    weights = [0.0, 1.0, 0.0, 0.0]
    found = walk(make("static", weights=weights), [text(0, 1), text(1, 1)], sampled)
    assert found.num_tokens == 2 * NUM_TOKENS
    assert found.block_efficiency == pytest.approx(NUM_TOKENS / -(-NUM_TOKENS // (DRAFT_LEN + 1)))
    np.testing.assert_allclose(found.acceptance, 1.0)
    wrong = walk(make("static", weights=weights), [text(0, 2)], False)
    assert wrong.num_rounds == wrong.num_tokens == NUM_TOKENS


@pytest.mark.parametrize("sampled", [False, True])
def test_the_best_fixed_mixture_is_found(sampled: bool) -> None:
    grid = simplex_grid(len(VIEWS))
    found = grid_acceptance([text(0, 3)], grid, sampled)
    assert found.max() == pytest.approx(1.0)
    assert found[grid[:, 3] == 1.0] == pytest.approx(1.0)
    assert found[grid[:, 3] == 0.0].max() < 0.2


def test_rules_that_forget_follow_a_switch() -> None:
    texts = {
        (sampled, name): [text(10 * place + k, place % len(VIEWS)) for k in range(4)]
        for sampled in (False, True)
        for place, name in enumerate(SCENARIOS)
    }
    assert [name for name, _ in schedule(texts, False)[:4]] == [
        *SCENARIOS[:1] * 2,
        *SCENARIOS[1:2] * 2,
    ]
    found = track(texts)
    for lines in found.values():
        assert lines.keys() == set(RULES)
        assert lines["accept_ascent"]["later"] > 0.95
        assert lines["equal"]["later"] < lines["accept_ascent"]["later"]
