from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from flyball.controller.corpus import Corpus
from flyball.controller.cost_table import CostTable
from flyball.controller.errors import TraceError
from flyball.controller.estimated import Estimator
from flyball.controller.guessed import glimpse, guess
from flyball.controller.match_text import MatchText, branches_of
from flyball.controller.policy_file import load_policy
from flyball.controller.replay import HOSTS, replay
from flyball.controller.replay_summary import summarise
from flyball.controller.trace_costs import costs_of_trace
from flyball.controller.trace_format import TraceRound, to_table

NUM_AHEAD = 16
NUM_REPEATS = 200
COSTS = CostTable(
    version=1,
    target="",
    draft="d",
    machine="none",
    source="made up",
    batch_sizes=[1],
    verify_lens=[1, 17],
    verify_s=[[1.0, 1.8]],
    draft_step_s=[0.1],
    host_s=[0.05],
    prompt_token_s=0.0,
)


def make_texts(rng: np.random.Generator, num_texts: int = 30, spare: int = 0) -> list[MatchText]:
    """Requests that differ, and matches that hang together: after one the next is likelier."""
    texts = []
    for chance in rng.beta(6.0, 3.0, num_texts):
        size = int(rng.integers(30, 90))
        match = np.zeros(size, np.float32)
        for place in range(1, size):
            own = 0.3 * chance + 0.7 if match[place - 1] else 0.9 * chance
            match[place] = rng.random() < own
        sure = np.where(match == 1.0, rng.beta(8, 2, size), rng.beta(2, 3, size))
        tails = rng.beta(2, 3, (len(branches_of(match, False)), NUM_AHEAD - 1))
        nothing = np.zeros(size, np.float32)
        texts.append(
            MatchText(
                "", "t", "d", 5, size + spare, NUM_AHEAD, False, np.zeros(size, np.int32), match,
                nothing, nothing, sure.astype(np.float32), nothing, tails.astype(np.float32),
                np.zeros(tails.shape, np.float32),
            )
        )  # fmt: skip
    return texts


def log(
    texts: list[MatchText],
    rng: np.random.Generator,
    lengths: list[int],
    share: list[float] | None = None,
) -> pa.Table:
    """An ordinary trace of these texts, whose lengths are drawn from some with these chances."""
    corpus = Corpus(texts, rng)
    chances = np.array([1.0] if share is None else share)
    rounds = []
    for number, text in enumerate(texts):
        at, first = 1, int(corpus.first[number])
        while at < len(text.match):
            arm = int(rng.choice(len(lengths), p=chances))
            proposed = min(lengths[arm], text.limit - at - 1)
            accepted = min(int(corpus.run[first + at]), proposed)
            kept = min(accepted + 1, len(text.match) - at)
            places = first + at, proposed
            sure = np.array(
                [
                    corpus.ahead(np.array([places[0]]), ahead + 1)[0, 0]
                    for ahead in range(places[1])
                ]
            ).reshape(1, -1)
            one = np.ones(1, np.int32)
            cost = COSTS.cost(len(rounds), 1, proposed + 1, proposed)
            rounds.append(
                TraceRound(
                    time_s=0.0,
                    step_id=len(rounds),
                    policy="drawn/1",
                    batch_size=1,
                    num_waiting=0,
                    request=np.array([number]),
                    position=at * one,
                    context_len=(at + 5) * one,
                    draft=np.where(proposed > 0, 0, -1) * one,
                    planned=lengths[arm] * one,
                    proposed=proposed * one,
                    accepted=min(accepted, kept) * one,
                    observed=min(accepted + 1, proposed, kept) * one,
                    confidence=sure,
                    propensity=chances[arm] * np.ones(1),
                    verify_len=proposed + 1,
                    num_draft_steps=proposed,
                    step_s=cost.step_s * float(rng.uniform(0.98, 1.02)),
                )
            )
            at += kept
    return to_table(rounds, "e", "run", ["d"])


def policy(**length: Any) -> Any:
    content = {"max_draft_len": NUM_AHEAD, **length}
    return load_policy({"version": 1, "length": content, "governor": {"follow": "length"}})


def truth(texts: list[MatchText], file: Any) -> dict[str, Any]:
    corpus = Corpus(texts, np.random.default_rng(0))
    return summarise(corpus, replay(corpus, file, COSTS))


def test_what_the_rounds_showed_is_what_the_texts_are() -> None:
    rng = np.random.default_rng(0)
    texts = make_texts(rng)
    seen = glimpse(log(texts, rng, [4]))
    match = np.concatenate([text.match for text in texts])
    sure = np.concatenate([text.confidence for text in texts])
    assert seen.sizes.tolist() == [len(text.match) for text in texts]
    assert seen.context_len.tolist() == [5] * len(texts)
    known = ~np.isnan(seen.match)
    assert 0.0 < seen.unknown < 0.3
    np.testing.assert_array_equal(seen.match[known], match[known])
    known = ~np.isnan(seen.confidence)
    assert known.mean() > 0.6
    np.testing.assert_allclose(seen.confidence[known], sure[known], rtol=1e-6)
    guessed = np.concatenate([text.match for text in guess(seen, rng)])
    known = ~np.isnan(seen.match)
    np.testing.assert_array_equal(guessed[known], match[known])
    assert set(np.unique(guessed)) == {0.0, 1.0}


@pytest.mark.parametrize("spare", [0, 100])  # ended by the limit, and by themselves
@pytest.mark.parametrize("draft_len", [3, 12])
def test_intervals_of_replays_with_guesses_cover_the_truth(draft_len: int, spare: int) -> None:
    rng = np.random.default_rng([1, draft_len, spare])
    file, covered = policy(policy="static", draft_len=draft_len), 0
    for _ in range(NUM_REPEATS):
        texts = make_texts(rng, spare=spare)
        estimator = Estimator(log(texts, rng, [5]), rng)
        found = estimator.estimate(file, COSTS, HOSTS["transformers"], 1)["tokens_per_s"]
        covered += found["low"] <= truth(texts, file)["tokens_per_s"] <= found["high"]
    assert 0.90 <= covered / NUM_REPEATS <= 0.99


def test_policies_that_look_at_confidence_are_estimated_too() -> None:
    rng = np.random.default_rng(2)
    texts = make_texts(rng, 60)
    estimator = Estimator(log(texts, rng, [8]), rng)
    for name in ("threshold", "goodput"):
        file = policy(policy=name)
        found = estimator.estimate(file, COSTS, HOSTS["transformers"], 1)["tokens_per_s"]
        assert found["value"] == pytest.approx(truth(texts, file)["tokens_per_s"], rel=0.03)


def test_lengths_that_were_drawn_are_judged_by_weighting() -> None:
    rng = np.random.default_rng(3)
    texts = make_texts(rng, 120)
    table = log(texts, rng, [0, 2, 4, 8], [0.1, 0.2, 0.3, 0.4])
    estimator = Estimator(table, rng)
    for length in (2, 4, 8):
        file = policy(policy="static", draft_len=length)
        found = estimator.estimate(file, COSTS, HOSTS["transformers"], 1)["tokens_per_round"]
        mean = truth(texts, file)["mean_accepted"] + 1.0
        for name in ("ips", "snips", "doubly_robust"):
            assert found[name]["value"] == pytest.approx(mean, rel=0.1)
            assert found[name]["low"] < found[name]["value"] < found[name]["high"]
    found = estimator.estimate(
        policy(policy="static", draft_len=5), COSTS, HOSTS["transformers"], 1
    )
    assert "0 effective draws" in found["tokens_per_round"]


def test_what_a_trace_cannot_say_is_refused() -> None:
    rng = np.random.default_rng(4)
    texts = make_texts(rng, 10)
    with pytest.raises(TraceError, match="one draft"):
        Estimator(log(texts, rng, [0]), rng)
    with pytest.raises(TraceError, match="never drafted"):
        Estimator(log(texts, rng, [0, 4], [0.9, 0.1]), rng)
    offers = log(texts, rng, [4])
    column = pa.array(["prompt_lookup"] * len(offers))
    offers = offers.set_column(offers.schema.get_field_index("draft"), "draft", column)
    with pytest.raises(TraceError, match="prompt lookup"):
        Estimator(offers, rng)
    with pytest.raises(TraceError, match="has none"):
        Estimator(log(texts, rng, [4]).slice(0, 0), rng)
    estimator = Estimator(log(texts, rng, [4]), rng)
    with pytest.raises(TraceError, match="entropies"):
        estimator.estimate(policy(policy="svip"), COSTS, HOSTS["transformers"], 1)
    blind = replace(estimator.glimpses, confidence=np.full(len(estimator.glimpses.match), np.nan))
    estimator.glimpses = blind
    with pytest.raises(TraceError, match="confidences"):
        estimator.estimate(policy(policy="threshold"), COSTS, HOSTS["transformers"], 1)
    still = policy(policy="static", draft_len=3)
    said = estimator.estimate(still, COSTS, HOSTS["transformers"], 1)["tokens_per_round"]
    assert "at random" in said


def test_a_trace_says_what_its_steps_cost() -> None:
    rng = np.random.default_rng(5)
    table = log(make_texts(rng), rng, [0, 3, 9], [0.3, 0.4, 0.3])
    costs = costs_of_trace(table)
    for length in (0, 3, 9):
        found = costs.cost(0, 1, length + 1, length).step_s
        assert found == pytest.approx(COSTS.cost(0, 1, length + 1, length).step_s, rel=0.03)
    # An engine that keeps a plan for several steps: each step has seconds of its own.
    number = table.schema.get_field_index("step")
    kept = table.set_column(number, "step", pa.array(table["step"].to_numpy() // 8))
    assert costs_of_trace(kept) == costs
    # One step in ten takes twice as long, whatever it does.
    number, step_s = table.schema.get_field_index("step_s"), table["step_s"].to_numpy()
    slow = np.where(rng.random(len(table)) < 0.1, 2.0, 1.0)
    slowed = costs_of_trace(table.set_column(number, "step_s", pa.array(step_s * slow)))
    level = float((step_s * slow).sum() / step_s.sum())
    for length in (0, 3, 9):
        one, other = (t.cost(0, 1, length + 1, length).step_s for t in (slowed, COSTS))
        assert one / other == pytest.approx(level, rel=0.04)
    table = log(make_texts(rng, 30, 100), rng, [5])
    for unclear in (table, table.slice(0, 3)):
        with pytest.raises(TraceError, match="different draft lengths.*--costs"):
            costs_of_trace(unclear)
