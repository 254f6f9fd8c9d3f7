"""Searches that make no sense are refused in one line."""

from __future__ import annotations

from typing import Any

import pytest
from hf_texts import random_models
from search_texts import mean_token

from flyball.controller.errors import HostError
from flyball.integrations.hf import govern, search


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"method": "mcts"}, "expected one of best_of_n"),
        ({"num_candidates": 0}, "num_candidates of at least 1"),
        ({"scorer": None}, "a scorer for best_of_n"),
        ({"method": "beam", "scorer": None}, "a scorer for beam"),
        ({"method": "self_consistency"}, "pass answer="),
        ({"method": "beam", "num_candidates": 10, "step_token_id": 7}, "a width that divides"),
        ({"method": "beam", "num_candidates": 8, "width": 0}, "a width that divides"),
        ({"method": "beam"}, "where steps end"),
        ({"method": "beam", "max_step_tokens": 0}, "steps of at least 1 token"),
        ({"method": "beam", "max_step_tokens": 4, "max_steps": 0}, "at least 1 of them"),
        ({"memory_tokens": 0}, "memory_tokens of at least 1"),
        ({"do_sample": False}, "do_sample=True for a search"),
        ({"seeds": [1, 2]}, "one seed for each of 1 prompts, but got 2"),
        ({"seeds": [-1]}, "seeds from 0"),
        ({"batch_size": 0}, "batch_size of at least 1"),
        ({"max_new_tokens": [3, 4]}, "each of 1 prompts"),
        ({"streamer": 1}, "no streamer"),
        ({"num_return_sequences": 2}, "num_return_sequences=1"),
        ({"num_beams": 2}, "num_beams=1"),
    ],
)
def test_mistakes_are_one_line(settings: dict[str, Any], match: str) -> None:
    target, draft = random_models("qwen2")
    given = {"scorer": mean_token, "do_sample": True, "max_new_tokens": 4, **settings}
    with pytest.raises(HostError, match=match) as caught:
        search(govern(target, [draft]), [[3, 4, 5]], **given)
    assert "\n" not in str(caught.value)
