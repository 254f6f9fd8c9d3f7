"""The benchmark's arithmetic on fixed runs; nothing is timed."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.hf_batch import cut
from benchmarks.hf_modes import Counts, Stock
from benchmarks.hf_run import DOMAINS, MIXED, Log, Run, choose, inputs_of
from benchmarks.hf_summary import gap, ratio, rows

from flyball.demo.loader import load_demo


def runs(seconds: dict[str, float], counts: Counts | None = None) -> list[Run]:
    return [Run(domain, 100, s, 1, 1, counts) for domain, s in seconds.items() for _ in range(2)]


def log_of(modes: dict[str, dict[str, float]]) -> Log:
    log = Log()
    for mode, seconds in modes.items():
        for run in runs(seconds):
            log.add(mode, MIXED, run)
            log.add(mode, run.group, run)
    return log


def test_gap_is_measured_from_the_best_static_length_to_the_best_of_each_domain() -> None:
    log = log_of(
        {
            "static 0": {"code": 1.0, "tables": 1.0, "prose": 1.0},
            "static 4": {"code": 0.5, "tables": 0.5, "prose": 1.5},
            "governor": {"code": 0.5, "tables": 0.5, "prose": 1.25},
        }
    )
    found = gap(log, "governor")
    assert found["best_static"] == "static 4"
    assert found["oracle_lengths"] == {
        "code": "static 4", "tables": "static 4", "prose": "static 0",
    }  # fmt: skip
    assert found["ceiling"].of_totals == pytest.approx(2.5 / 2.0)
    assert found["gap_closed"] == pytest.approx((300 / 2.25 - 120) / (150 - 120))


def test_gap_is_unknown_where_one_length_is_best_everywhere() -> None:
    seconds = dict.fromkeys(DOMAINS, 1.0)
    log = log_of({"static 0": seconds, "governor": seconds})
    assert gap(log, "governor")["gap_closed"] is None


def test_ratio_of_totals_weighs_long_texts_and_the_median_does_not() -> None:
    base = [Run("code", 100, s, 1, 1, None) for s in (1.0, 1.0, 10.0)]
    fast = [Run("code", 100, s, 1, 1, None) for s in (0.5, 0.5, 10.0)]
    found = ratio(fast, base)
    assert found.of_totals == pytest.approx(12 / 11)
    assert found.median_of_pairs == pytest.approx(2.0)
    assert found.low is not None and found.high is not None
    assert found.low < found.of_totals < found.high


def test_a_constant_ratio_has_no_width() -> None:
    base = runs({"code": 1.0, "tables": 3.0})
    found = ratio(runs({"code": 0.5, "tables": 1.5}), base)
    assert (found.low, found.of_totals, found.high) == pytest.approx((2.0, 2.0, 2.0))


def test_one_unit_has_no_interval() -> None:
    one = [Run("code", 100, 1.0, 1, 1, None)]
    assert (ratio(one, one).of_totals, ratio(one, one).low) == (1.0, None)


def test_rows_give_means_a_round() -> None:
    log = Log()
    for run in runs({"code": 0.5}, Counts(rounds=20, drafted=60, accepted=30, host_s=0.01)):
        log.add("governor", "code", run)
    (row,) = rows(log, 1)
    assert row["tokens_per_s"] == pytest.approx(200)
    assert row["ms_per_token"] == pytest.approx(5)
    assert row["drafted_per_round"] == pytest.approx(3)
    assert row["accepted_per_round"] == pytest.approx(1.5)
    assert row["host_ms_per_round"] == pytest.approx(0.5)
    assert (row["num_equal_to_plain"], row["num_texts"]) == (2, 2)


def test_only_wanted_tokens_count() -> None:
    rows_of_batch = [torch.tensor([5, 6, 7, 8]), torch.tensor([5, 0, 0, 0])]
    assert [row.tolist() for row in cut(rows_of_batch, [3, 3], eos=0)] == [[5, 6, 7], [5, 0]]


def test_the_seed_chooses_prompts_and_the_stream_turns_in_segments() -> None:
    prompts = {d: [f"{d} {i}" for i in range(24)] for d in DOMAINS}
    stream = choose(prompts, 4, seed=3)
    assert [d for d, _ in stream] == [d for _ in range(2) for d in DOMAINS for _ in range(2)]
    assert stream == choose(prompts, 4, seed=3) != choose(prompts, 4, seed=4)
    assert len(set(stream)) == 12


def test_a_stock_mode_leaves_nothing_to_the_next() -> None:
    models = load_demo()
    before = models.draft.generation_config
    runner = Stock(models, {"num_assistant_tokens_schedule": "heuristic"})
    runner.generate(inputs_of(models, ["import os\n"], 12))
    assert models.draft.generation_config is before
    assert before.num_assistant_tokens is None
    assert runner._config is not None
    assert runner._config.num_assistant_tokens is not None
