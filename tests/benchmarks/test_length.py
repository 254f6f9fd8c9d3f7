"""The arena's texts and arithmetic; nothing is timed."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks import length_texts
from benchmarks.length_run import runs_of, walk_causal, walk_runs, walk_static
from benchmarks.length_streams import MAX_DRAFT_LEN, SCENARIOS, Costs, entropy_of
from benchmarks.length_traces import DOMAINS, RECORDED, TRACES, recorded

TEXTS = {**SCENARIOS, **RECORDED}


@pytest.mark.parametrize("name", TEXTS)
def test_streams_are_whole_and_the_seed_s_own(name: str) -> None:
    size = 2000
    stream = TEXTS[name](np.random.default_rng(1), size)
    num_tokens = len(stream.match)
    assert size <= num_tokens < size + 400
    assert stream.name == name
    assert stream.confidence.shape == stream.entropy.shape == (num_tokens, MAX_DRAFT_LEN)
    assert ((stream.confidence > 0.0) & (stream.confidence <= 1.0)).all()
    assert (stream.entropy >= 0.0).all()
    assert stream.ends[-1] == num_tokens
    assert np.diff([0, *stream.ends]).min() > 0
    assert all(limit >= end for end, limit in zip(stream.ends, stream.limits, strict=True))
    assert (stream.known is None) == (name in RECORDED)
    again = TEXTS[name](np.random.default_rng(1), size)
    other = TEXTS[name](np.random.default_rng(2), size)
    np.testing.assert_array_equal(stream.confidence, again.confidence)
    assert not np.array_equal(stream.match[:1000], other.match[:1000])


def test_the_kept_trace_is_small_and_has_every_domain() -> None:
    assert sum(path.stat().st_size for path in TRACES.iterdir()) < 1.5e6
    assert {text.domain for text in recorded()} == set(DOMAINS)
    assert not any(text.sampled for text in recorded())


def test_a_recorded_draft_is_less_sure_where_it_has_left_the_text() -> None:
    stream = RECORDED["prose"](np.random.default_rng(0), 4000)
    run = runs_of(stream)
    off_path = np.arange(MAX_DRAFT_LEN) > run[:, None]
    misses = np.arange(MAX_DRAFT_LEN) == run[:, None]
    assert stream.confidence[off_path].mean() < stream.confidence[~off_path & ~misses].mean()


def test_entropy_of_a_largest_probability() -> None:
    sure = np.array([1.0, 0.5, 1 / 51])
    expected = [0.0, np.log(2) + 0.5 * np.log(50), np.log(51)]
    np.testing.assert_allclose(entropy_of(sure), expected, atol=1e-12)


@pytest.mark.parametrize("name", ["token_mixture", "mixed"])
def test_oracles_are_no_worse_than_any_static_length(name: str) -> None:
    stream, costs = TEXTS[name](np.random.default_rng(0), 3000), Costs(0.001, 0.0)
    best = max(walk_static(stream, costs, k).rate for k in range(MAX_DRAFT_LEN + 1))
    assert walk_runs(stream, costs).rate > best
    if stream.known is not None:
        assert walk_causal(stream, costs).rate > 0.98 * best


def test_the_summary_compares_with_an_oracle_only_where_there_is_one() -> None:
    rates = {"default": 1.1, "ucb": 1.0, length_texts.RUNS: 1.3, length_texts.CAUSAL: 1.2}
    rows = [
        {"scenario": scenario, "policy": policy, "vs_static": rate, "decision_us": 1.0}
        for scenario in length_texts.TEXTS
        for policy, rate in rates.items()
        if policy != length_texts.CAUSAL or scenario in SCENARIOS
    ]
    found = length_texts._summary(rows)
    for name in ("stationary", "synthetic texts", "mean"):
        assert found[name]["gap_closed"] == pytest.approx(0.5)
    for name in ("code", "recorded texts"):
        assert found[name]["gap_closed"] is None
    for name in ("code", "stationary", "mean"):
        assert found[name]["run_gap_closed"] == pytest.approx(1 / 3)
        assert found[name]["best_other"] == "ucb"
        assert found[name]["vs_best_other"] == pytest.approx(1.1)
    table = length_texts.mean_ratios(rows, tuple(RECORDED))
    assert [line["policy"] for line in table] == [length_texts.RUNS, "default", "ucb"]
