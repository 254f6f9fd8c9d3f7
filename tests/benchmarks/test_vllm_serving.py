"""What is drawn and what is computed; no server is started and nothing is timed."""

import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.vllm_load import (
    DOMAINS,
    JOBS,
    LOADS,
    MIXED,
    NEW_TOKENS,
    PHASE_JOBS,
    PROMPT_TOKENS,
    mixed_phase,
    phases,
)
from benchmarks.vllm_quiet import busy_ticks, worst
from benchmarks.vllm_summary import (
    ACCEPTED,
    DRAFTED,
    PHASED,
    STREAMS,
    Log,
    Measured,
    against_unseen,
    best_lengths,
    fastest,
    finalists,
    ratio,
    read_metrics,
    rows,
    stream_of,
    summary,
)
from benchmarks.vllm_variants import (
    GOVERNOR,
    OFF,
    TABLE,
    Variant,
    best_table,
    constant,
    static_name,
    variants,
)

PROMPTS = {domain: [list(range(i, i + 96)) for i in range(24)] for domain in DOMAINS}


def add(
    log: Log, method: str, name: str, seconds: float, text: int = 7, only: str | None = None
) -> None:
    """Two repetitions of every stream, 100 tokens a unit."""
    for stream in STREAMS if only is None else (only,):
        for rep in range(2):
            load = 1 if stream == PHASED else int(stream.removeprefix("load "))
            run = Measured((rep, 0), load, MIXED, 100.0, seconds, ((text,), (8,)), 0.0)
            before, after = {DRAFTED: 5.0, ACCEPTED: 5.0}, {DRAFTED: 15.0, ACCEPTED: 9.0}
            log.add(Variant(method, name), stream, run, before, after)


@pytest.fixture
def log() -> Log:
    found = Log()
    add(found, "", OFF, 2.0)
    add(found, "ngram", static_name(0), 2.5)
    add(found, "ngram", static_name(2), 1.25)
    add(found, "ngram", GOVERNOR, 1.0, text=9)
    add(found, "ngram", TABLE, 1.0, only=PHASED)
    found.tables["ngram"] = constant(2)
    return found


def test_the_seed_draws_the_phases() -> None:
    drawn = phases(PROMPTS, False, [3, 0])
    assert drawn == phases(PROMPTS, False, [3, 0])
    assert drawn not in (phases(PROMPTS, False, [3, 1]), phases(PROMPTS, False, [4, 0]))


@pytest.mark.parametrize("seed", range(20))
def test_phases_change_domain_and_load_and_stay_within_the_committed_ranges(seed: int) -> None:
    drawn = phases(PROMPTS, False, [seed])
    assert sorted(phase.load for phase in drawn) == sorted(LOADS * 2)
    for one, other in zip(drawn, drawn[1:], strict=False):
        assert one.load != other.load and one.domain != other.domain
    for phase in drawn:
        low, high = PHASE_JOBS[phase.load]
        assert low <= len(phase.jobs) <= high
        for job in phase.jobs:
            assert PROMPT_TOKENS[0] <= len(job.prompt) <= PROMPT_TOKENS[1]
            assert NEW_TOKENS[0] <= job.max_tokens <= NEW_TOKENS[1]


@pytest.mark.parametrize("load", LOADS)
def test_a_load_has_more_requests_than_clients(load: int) -> None:
    phase = mixed_phase(PROMPTS, load, False, [0, 0])
    assert phase == mixed_phase(PROMPTS, load, False, [0, 0])
    assert load < JOBS[load][0] <= len(phase.jobs) <= JOBS[load][1]


def test_the_best_table_takes_the_fastest_length_at_each_load() -> None:
    lengths = {4: 0, 1: 4, 16: 4, 32: 0}
    assert best_table(lengths) == ((1, 2, 4), (3, 8, 0), (9, 24, 4), (25, 512, 0))


def test_all_that_draft_alike_share_a_server() -> None:
    servers = {variant.server for variant in variants(("ngram", "draft_model"), (0, 1, 2))}
    assert servers == {"off", "ngram", "draft_model"}
    assert Variant("ngram", TABLE, constant(2)).server == "ngram"


def test_the_summary_compares_with_the_best_in_hindsight(log: Log) -> None:
    found: dict[str, Any] = summary(log, ("ngram",))["ngram"]
    assert fastest(log, "ngram", PHASED, 2) == [2, 0]
    assert best_lengths(log, "ngram") == dict.fromkeys(LOADS, 2)
    for stream in STREAMS:
        rival = found["governed_vs_best_static"][stream]
        assert (rival["rival"], rival["ratio"].of_totals) == ("K=2", pytest.approx(1.25))
        assert found["governed_vs_off"][stream].of_totals == pytest.approx(2.0)
        assert found["governed_vs_k0"][stream].of_totals == pytest.approx(2.5)
        assert found["k0_vs_off"][stream].of_totals == pytest.approx(0.8)
    assert found["governed_vs_best_table"]["ratio"].of_totals == pytest.approx(1.0)
    assert found["num_unlike_off"] == 2 * len(STREAMS)


def test_what_fell_out_early_is_no_rival_and_is_compared_where_it_ran() -> None:
    log, stream = Log(), stream_of(4)
    seconds = {1: [1.0, 1.0], 2: [4.0, 2.0, 2.0, 4.0], 3: [2.0, 4.0, 4.0, 2.0]}
    runs = {**{static_name(k): of for k, of in seconds.items()}, GOVERNOR: [2.0] * 4}
    for name, of in runs.items():
        for rep, taken_s in enumerate(of):
            run = Measured((rep, 0), 4, MIXED, 100.0, taken_s, (), 0.0)
            log.add(Variant("ngram", name), stream, run, {}, {})
    assert list(finalists(log, "ngram", stream)) == [2, 3]
    mine = log.runs["ngram", GOVERNOR, stream]
    assert ratio(mine, log.runs["ngram", static_name(1), stream]).of_totals == 0.5
    # In the repetitions of the finalists alone, each is chosen by the runs of the others.
    found = against_unseen(log, "ngram", GOVERNOR, stream)
    assert found is not None and found.of_totals == pytest.approx(8.0 / 4.0)


def test_rows_count_drafts_and_texts_unlike_those_of_the_engine_alone(log: Log) -> None:
    found = {(row["stream"], row["variant"]): row for row in rows(log)}
    governed = found[stream_of(16), GOVERNOR]
    assert governed["tokens_per_s"] == pytest.approx(100)
    assert (governed["drafted"], governed["accepted"]) == (20, 8)
    assert (governed["num_unlike_off"], governed["num_texts"]) == (2, 4)
    assert found[stream_of(16), static_name(2)]["num_unlike_off"] == 0


def test_the_median_repetition_gives_the_rate() -> None:
    log = Log()
    for rep, seconds in enumerate((1.0, 2.0, 10.0)):
        run = Measured((rep, 0), 1, MIXED, 100.0, seconds, (), 0.0)
        log.add(Variant("", OFF), stream_of(1), run, {}, {"flyball_draft_len": float(rep)})
    (row,) = rows(log)
    assert row["tokens_per_s"] == pytest.approx(50)
    assert row["counters"] == {"flyball_draft_len": 2.0}


def test_metrics_of_drafts_and_of_the_governor_are_read() -> None:
    text = """# HELP vllm:spec_decode_num_draft_tokens_total Number of draft tokens.
vllm:spec_decode_num_draft_tokens_total{engine="0",model_name="m"} 8.0
vllm:spec_decode_num_draft_tokens_total{engine="1",model_name="m"} 2.0
vllm:spec_decode_num_draft_tokens_created{engine="0",model_name="m"} 1.7e+09
vllm:request_success_total{engine="0"} 3.0
flyball_mode{engine="0",mode="governing"} 1.0
flyball_draft_len{engine="0"} 2.5
flyball_price_tokens_per_second{engine="0"} NaN
"""
    assert read_metrics(text) == {
        DRAFTED: 10.0,
        'flyball_mode{mode="governing"}': 1.0,
        "flyball_draft_len": 2.5,
    }


def test_a_core_is_busy_with_all_that_is_not_idle_or_waiting() -> None:
    stat = "cpu  9 9 9 9 9 9 9 9 0 0\ncpu0 1 2 4 900 900 8 16 32 0 0\ncpu1 1 1 1 1 1 1 1 1 0 0\n"
    assert busy_ticks(stat, 0) == 63


def test_the_worse_side_counts_and_rounding_does_not() -> None:
    assert worst([-0.01, 0.2]) == 0.2
    assert worst([-0.01, -0.02]) == 0.0
