"""Rejection changes which candidates finish, never the tokens of those that do."""

from __future__ import annotations

import pytest
from hf_texts import random_models, random_rows, shuffle_drafts
from policy_sections import rejection_section
from search_texts import SAMPLED, assert_nothing_open, mean_token, rejection, texts

from flyball.integrations.hf import govern, search
from flyball.policies.registry import REJECTION_POLICIES

SEEDS = [7, 11, 13, 2**64 - 1, 5, 1, 2, 3, 4]


@pytest.fixture(scope="module")
def complete() -> list[list[list[int]]]:
    """What five candidates of each prompt say when nobody is stopped."""
    target, _ = random_models("qwen2")
    found = search(
        govern(target), random_rows(9), num_candidates=5, scorer=mean_token, seeds=SEEDS, **SAMPLED
    )
    assert all(candidate.finished for result in found for candidate in result.candidates)
    return texts(found)


@pytest.mark.parametrize("name", sorted(REJECTION_POLICIES))
def test_rejection_never_changes_a_token(name: str, complete: list[list[list[int]]]) -> None:
    target, draft = random_models("qwen2")
    settings = rejection_section(name)
    if name == "conformal":
        settings["risk"] = 0.5  # known after four groups
    if name == "top_fraction":
        settings["tau"] = 4
    policy = rejection(**{"name": settings.pop("policy"), **settings})
    num_stopped = 0
    for num_drafts, batch_size, memory_tokens in ((0, 4, 150), (2, 3, None), (2, 40, 400)):
        gov = govern(target, [draft, "prompt_lookup"][:num_drafts], policy=policy)
        if num_drafts:
            shuffle_drafts(gov, 5)
        found = search(
            gov,
            random_rows(9),
            method="self_consistency",
            answer=lambda tokens: int(tokens[-1]) % 2,
            num_candidates=5,
            scorer=mean_token,
            seeds=SEEDS,
            batch_size=batch_size,
            memory_tokens=memory_tokens,
            **SAMPLED,
        )
        assert gov.governor.faults == {}
        assert_nothing_open(gov)
        for result, expected in zip(found, complete, strict=True):
            num_stopped += result.num_stopped
            assert result.candidates[result.best].finished
            for candidate, whole in zip(result.candidates, expected, strict=True):
                assert candidate.finished != candidate.stopped
                length = len(whole) if candidate.finished else len(candidate.tokens)
                assert candidate.tokens.tolist() == whole[:length]
    if name not in ("hopeless", "self_eval"):
        assert num_stopped > 0
