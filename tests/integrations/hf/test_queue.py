"""A queue of prompts: every text is what plain `generate` gives for its prompt alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hf_texts import SETTINGS, random_models, random_rows, shuffle_drafts
from transformers import StoppingCriteria, StoppingCriteriaList

from flyball.controller.errors import HostError
from flyball.integrations.hf import govern

LIMITS = [3, 40, 1, 25, 60, 12, 33, 7, 50, 18]


class EndsAfterToken(StoppingCriteria):
    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        return torch.isin(input_ids[:, -1], torch.arange(30, 34))


QUEUED = {name: settings for name, settings in SETTINGS.items() if name != "allowed by prefix"}
QUEUED["own criterion"] = {"stopping_criteria": StoppingCriteriaList([EndsAfterToken()])}


def alone(target: Any, row: torch.Tensor, limit: int, **settings: Any) -> list[int]:
    out = target.generate(row[None], max_new_tokens=limit, do_sample=False, **settings)
    return out[0].tolist()


@pytest.mark.filterwarnings("ignore:Unfeasible length")
@pytest.mark.parametrize("settings", [{}, *QUEUED.values()], ids=["plain", *QUEUED])
@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_texts_are_those_of_prompts_alone(settings: dict[str, Any], batch_size: int) -> None:
    target, draft = random_models("qwen2")
    rows = random_rows(len(LIMITS))
    expected = [
        alone(target, row, limit, **settings) for row, limit in zip(rows, LIMITS, strict=True)
    ]
    for shuffled in (False, True):
        gov = govern(target, [draft, "prompt_lookup"])
        if shuffled:
            shuffle_drafts(gov, 6)
        out = gov.generate_many(
            rows, batch_size=batch_size, max_new_tokens=LIMITS, do_sample=False, **settings
        )
        assert [text.tolist() for text in out] == expected


def test_slots_and_memory_are_those_of_the_batch_not_of_the_queue() -> None:
    target, draft = random_models("qwen2")
    gov = govern(target, [draft, "prompt_lookup"])
    gov.generate_many(random_rows(20), batch_size=3, max_new_tokens=8, do_sample=False)
    assert gov.governor._pool.num_slots == 3


def test_one_limit_for_all_and_no_prompts() -> None:
    target, draft = random_models("qwen2")
    gov = govern(target, [draft])
    rows = random_rows(3)
    out = gov.generate_many([row.tolist() for row in rows], max_new_tokens=9, do_sample=False)
    assert [text.tolist() for text in out] == [alone(target, row, 9) for row in rows]
    assert gov.generate_many([]) == []


@pytest.mark.parametrize(
    ("prompts", "settings", "match"),
    [
        ([[3], []], {}, "number 1 is not"),
        ([torch.tensor([[3, 4]])], {}, "number 0 is not"),
        ([[3]], {"batch_size": 0}, "batch_size of at least 1"),
        ([[3], [4]], {"max_new_tokens": [5]}, "each of 2 prompts, but got 1"),
        ([[3]], {"num_return_sequences": 2, "do_sample": True}, "num_return_sequences=1"),
        ([[3]], {"streamer": 1}, "no streamer"),
        ([[3]], {"return_dict_in_generate": True}, "return_dict_in_generate=False"),
    ],
)
def test_mistakes_are_one_line(prompts: Any, settings: dict[str, Any], match: str) -> None:
    target, draft = random_models("qwen2")
    with pytest.raises(HostError, match=match) as caught:
        govern(target, [draft]).generate_many(prompts, **settings)
    assert "\n" not in str(caught.value)
