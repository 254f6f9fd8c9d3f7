"""Replays against governed runs of real models that are told the same costs.

In float64, where no near tie falls differently in another batch.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from replay_texts import COSTS

from flyball.controller.contract import PROMPT_LOOKUP
from flyball.controller.corpus import Corpus
from flyball.controller.policy_file import load_policy
from flyball.controller.replay import Replayed, replay
from flyball.demo.loader import DemoModels, load_demo
from flyball.integrations.hf import govern
from flyball.integrations.hf.exact import FinishedText, RecordSettings, record_matches
from flyball.integrations.hf.exact_lookup import record_lookups
from flyball.integrations.hf.stats import RoundStats

NUM_TOKENS = 48
LENGTHS: dict[str, dict[str, Any]] = {
    **{f"static {k}": {"policy": "static", "draft_len": k} for k in (0, 1, 4, 8, 16)},
    **{
        name: {"policy": name}
        for name in ("heuristic", "gamma_tune", "survival", "threshold", "thompson", "goodput")
    },
}


@pytest.fixture(scope="module")
def demo() -> DemoModels:
    models = load_demo("float64")
    models.draft.generation_config.eos_token_id = None
    return models


@pytest.fixture(scope="module")
def prompts(demo: DemoModels) -> list[list[int]]:
    texts = [text for domain in demo.prompts.values() for text in domain[3:6]]
    return [demo.tokenizer(text)["input_ids"][:40] for text in texts]


@pytest.fixture(scope="module")
def corpora(demo: DemoModels, prompts: list[list[int]]) -> dict[str, Corpus]:
    with govern(demo.target) as gov:
        texts = gov.generate_many(prompts, max_new_tokens=NUM_TOKENS, do_sample=False)
    finished = [
        FinishedText(text.numpy(), len(prompt), limit=NUM_TOKENS)
        for text, prompt in zip(texts, prompts, strict=True)
    ]
    found = {
        "model": record_matches(demo.target, demo.draft, finished, RecordSettings()),
        PROMPT_LOOKUP: record_lookups(finished, RecordSettings()),
    }
    return {name: Corpus(own, np.random.default_rng(0)) for name, own in found.items()}


def check(
    demo: DemoModels,
    draft: Any,
    prompts: list[list[int]],
    policy: dict[str, Any],
    batch_size: int,
    replayed: Replayed,
) -> None:
    rounds: list[RoundStats] = []
    with govern(demo.target, [draft], policy=policy, costs=COSTS, on_round=rounds.append) as gov:
        gov.generate_many(
            prompts, batch_size=batch_size, max_new_tokens=NUM_TOKENS, do_sample=False
        )
        assert gov.governor.faults == replayed.faults == {}
    assert len(rounds) == len(replayed.step_s)
    proposed = np.concatenate([stats.draft_len for stats in rounds])
    accepted = np.concatenate([stats.num_accepted for stats in rounds])
    assert replayed.proposed.tolist() == proposed.tolist()
    assert replayed.accepted.tolist() == accepted.tolist()


@pytest.mark.parametrize("batch_size", [1, 4])
@pytest.mark.parametrize(
    ("draft", "name"),
    [
        *(("model", name) for name in (*LENGTHS, "shadows")),
        *((PROMPT_LOOKUP, name) for name in ("static 4", "static 16", "goodput", "threshold")),
    ],
)
def test_rounds_are_those_of_the_real_host(
    demo: DemoModels,
    prompts: list[list[int]],
    corpora: dict[str, Corpus],
    draft: str,
    name: str,
    batch_size: int,
) -> None:
    length = LENGTHS.get(name, {"policy": "goodput"})
    policy = {"version": 1, "length": {**length, "max_draft_len": 16}}
    if name != "shadows" and draft == "model":
        policy["governor"] = {"follow": "length"}
    replayed = replay(corpora[draft], load_policy(policy), COSTS, batch_size=batch_size)
    assert replayed.accepted.sum() > 0 or name == "static 0"
    own = demo.draft if draft == "model" else PROMPT_LOOKUP
    check(demo, own, prompts, policy, batch_size, replayed)
