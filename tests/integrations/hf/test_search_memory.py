"""Bounded memory: the cache changes its shape, and nothing of what it holds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hf_texts import random_models, random_rows
from search_texts import SAMPLED, mean_token, rejection, texts

from flyball.integrations.hf import govern, search
from flyball.integrations.hf.cache import RowCache
from flyball.integrations.hf.cached_model import CachedModel
from flyball.integrations.hf.heat import Member, Origin
from flyball.integrations.hf.room import Room


def member(prompt_len: int, max_length: int, num_tokens: int = 0, num_passed: int = 0) -> Member:
    tokens = np.arange(prompt_len)
    origin = Origin(tokens, np.zeros(0), np.zeros(0))
    found = Member.begin(0, -1, 0, origin, max_length)
    found.tokens = np.arange(prompt_len + num_tokens)
    found.num_passed = num_passed
    return found


def test_more_beginnings_than_completions_have_room() -> None:
    room = Room(100, np.array([4]), overshoot=2)
    fresh = [member(10, 50) for _ in range(6)]
    assert [room.reach(one) for one in fresh] == [16] * 6
    assert room.fits(fresh[5], fresh[:5], [])
    assert not room.fits(fresh[5], fresh[:5], [member(10, 50, 4, 1)])
    on = [member(10, 50, 4, 1) for _ in range(3)]
    assert room.fits(on[1], on[:1], []) and not room.fits(on[2], on[:2], [])
    assert room.fits(on[1], on[:1], [on[1]])
    assert room.surplus([*fresh[:5], on[0]], []) == [on[0]]
    assert room.surplus(on, []) == on[:0:-1]
    assert room.fits(member(10, 500), [], []) and room.surplus([member(10, 500)], []) == []


def test_without_a_bound_there_is_room() -> None:
    room = Room(None, np.array([4]), overshoot=2)
    many = [member(10, 50) for _ in range(60)]
    assert room.fits(many[0], many[1:], []) and room.surplus(many, []) == []


def test_a_cache_high_and_narrow_becomes_wide() -> None:
    target, _ = random_models("qwen2")
    rows = torch.randint(3, 64, (8, 24), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        model = CachedModel(target, 8, 64, max_tokens=64)
        expected = target(rows).logits
        for row in range(8):
            model.read_prompts(rows[row : row + 1, :4], np.array([4]), np.array([row]))
        layer = model._cache.layers[0]
        assert layer.keys.shape[0] == 8 and layer.keys.shape[2] == 8
        for column in range(4, 8):
            got = model.forward(rows[:, column : column + 1], np.full(8, column))
            assert torch.allclose(got[:, 0], expected[:, column], atol=1e-10)
        model.keep_columns(8)
        for column in range(8, 24):
            got = model.forward(rows[:2, column : column + 1], np.full(2, column))
            assert torch.allclose(got[:, 0], expected[:2, column], atol=1e-10)
        assert layer.keys.shape[0] * layer.keys.shape[2] <= 64


@pytest.mark.parametrize("num_drafts", [0, 1])
def test_a_search_stays_within_its_memory(num_drafts: int) -> None:
    shapes = list[tuple[int, int]]()
    begin_step = RowCache.begin_step

    def noted(self: RowCache, *args: Any) -> Any:
        found = begin_step(self, *args)
        shapes.append((self._place.max_rows, self._place.capacity))
        return found

    target, draft = random_models("qwen2")
    policy = rejection("top_fraction", tau=4)
    policy["length"] = {"policy": "static", "draft_len": 2, "max_draft_len": 2}
    asked: dict[str, Any] = {"num_candidates": 12, "scorer": mean_token, "seeds": [1, 2, 3]}
    rows = random_rows(3)
    plain = search(govern(target, policy=policy), rows, batch_size=12, **asked, **SAMPLED)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RowCache, "begin_step", noted)
        gov = govern(target, [draft][:num_drafts], policy=policy)
        found = search(gov, rows, batch_size=12, memory_tokens=140, **asked, **SAMPLED)
    assert all(number * columns <= 140 for number, columns in shapes)
    assert len(set(shapes)) > 1 and max(number for number, _ in shapes) >= 6
    if num_drafts == 0:
        assert texts(found) == texts(plain)
