"""Limits that are set while texts are written change how fast they come, and no token."""

from __future__ import annotations

from typing import Any

import pytest
from hf_texts import random_models, random_rows

from flyball.controller.limits import Limits
from flyball.integrations.hf import govern
from flyball.integrations.hf.stats import RoundStats

MOST = [(Limits(2, 3), 2, 3), (Limits(1, 0), 1, 0), (Limits(None, 1), 4, 1), (Limits(3), 3, 64)]


@pytest.mark.parametrize(("limits", "most_rows", "longest"), MOST)
@pytest.mark.parametrize("policy", ["goodput", "static", "threshold"])
@pytest.mark.parametrize("drafts", [1, 2])
def test_rounds_keep_within_limits_and_texts_are_the_same(
    limits: Limits, most_rows: int, longest: int, policy: str, drafts: int
) -> None:
    target, draft = random_models("qwen2")
    rows = random_rows(9)
    settings: dict[str, Any] = {"batch_size": 4, "max_new_tokens": 24, "do_sample": False}
    expected = [text.tolist() for text in govern(target, []).generate_many(rows, **settings)]
    rounds: list[RoundStats] = []
    section = {"policy": policy, **({"draft_len": 5} if policy == "static" else {})}
    gov = govern(
        target,
        [draft, "prompt_lookup"][:drafts],
        policy={"version": 1, "length": section},
        on_round=rounds.append,
    )
    gov.governor.limits = limits
    assert [text.tolist() for text in gov.generate_many(rows, **settings)] == expected
    assert max(len(one.draft_len) for one in rounds) == most_rows
    assert max(one.draft_len.max() for one in rounds) <= longest
    assert gov.governor.faults == {}


def test_a_limit_that_falls_lets_rows_that_run_go_on() -> None:
    target, draft = random_models("qwen2")
    rows, sizes = random_rows(8), list[int]()

    def tighten(one: RoundStats) -> None:
        sizes.append(len(one.draft_len))
        gov.governor.limits.batch_size = 2

    gov = govern(target, [draft], on_round=tighten)
    texts = gov.generate_many(rows, batch_size=4, max_new_tokens=[9 + n for n in range(8)])
    assert len(texts) == 8
    assert sizes[0] == 4
    assert max(sizes[-3:]) <= 2
