"""Beam searches on texts that are looked up are those that run for real."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from benchmarks.rejection_beams import RISK, WIDTH, WORTHS, BeamPlayer, prefixes_of, sections
from benchmarks.rejection_pool import MAX_NEW_TOKENS, SAMPLING, candidate_seeds
from benchmarks.rejection_prefixes import Prefixes

from flyball.controller.cost_table import CostTable
from flyball.demo.arithmetic import STEP_END
from flyball.integrations.hf import ImplicitRewardModel, govern, search
from flyball.integrations.hf.govern import GovernedGenerate

SIZE, AT_ONCE, NUM_PROBLEMS, SEED = 8, 4, 12, 7
# So risky that few steps need to be known before members are stopped.
SECTIONS = sections() | {
    "bold": {
        **(sections()[f"conformal {RISK} worth {WORTHS[0]}"] or {}),
        "risk": 0.5,
        "value_of_winning": 100.0,
    }
}
# Every row costs the same, as replays take for granted; what is measured moves with the machine.
EVEN = CostTable(
    version=1,
    target="",
    draft="",
    machine="",
    source="made up",
    batch_sizes=[1, 64],
    verify_lens=[1],
    verify_s=[[0.001], [0.064]],
    draft_step_s=[0.0, 0.0],
    host_s=[0.0, 0.0],
    prompt_token_s=0.0,
)


@pytest.fixture(scope="module")
def prefixes() -> Prefixes:
    return prefixes_of(NUM_PROBLEMS, SEED)


@contextmanager
def governed(prefixes: Prefixes, name: str) -> Iterator[GovernedGenerate]:
    section = SECTIONS[name]
    content = {"version": 1} | ({} if section is None else {"rejection": section})
    with govern(prefixes.models.solver, policy=content, costs=EVEN) as gov:
        yield gov


@pytest.mark.parametrize("name", ["none", "top_fraction 1/4 tau 2", "bold"])
def test_answers_and_operations_are_those_of_a_search(name: str, prefixes: Prefixes) -> None:
    models, seeds = prefixes.models, candidate_seeds(SEED, NUM_PROBLEMS)
    player = BeamPlayer(prefixes, SECTIONS[name], SIZE)
    scorer = ImplicitRewardModel(models.judge, max_rows=4 * AT_ONCE * SIZE)
    with governed(prefixes, name) as gov:
        for start in range(0, NUM_PROBLEMS, AT_ONCE):
            some = range(start, start + AT_ONCE)
            own = seeds[start : start + AT_ONCE]
            found = search(
                gov,
                [prefixes.prompts[number] for number in some],
                scorer=scorer,
                seeds=own,
                method="beam",
                num_candidates=SIZE,
                width=WIDTH,
                step_token_id=models.tokenizer.convert_tokens_to_ids(STEP_END),
                batch_size=AT_ONCE * SIZE,
                max_new_tokens=MAX_NEW_TOKENS,
                **SAMPLING,
            )
            for tokens, result in zip(player.turn(some, own), found, strict=True):
                assert tokens.tolist() == result.tokens.tolist()
        assert player.tally.num_tokens == gov.stats.num_tokens
        # The judge reads beginnings anew whose rows were taken meanwhile; seen were 0.6%.
        loose = 0.01 if name == "bold" else 1e-7
        flops = gov.stats.target_flops + scorer.flops
        np.testing.assert_allclose(player.tally.flops, flops, rtol=loose)
        contests = gov.governor.contests
        assert player.contests.num_audited == contests.num_audited
        assert player.contests.num_stopped == contests.num_stopped
    assert (player.contests.num_stopped > 0) == (name != "none")
    assert (player.tally.num_free == 0) == (contests.num_audited == contests.num_groups)
    assert player.tally.num_wrong <= 0.2 * max(player.tally.num_free, 10)
