"""Two versions are compared unit by unit, by seconds that lie next to each other."""

from __future__ import annotations

import argparse

import pytest
from benchmarks import hf_versions
from benchmarks.hf_versions import Decoded
from benchmarks.hf_versions_worker import Sizes


def test_a_row_compares_rates_rounds_and_texts() -> None:
    pairs = [
        [Decoded(100, 1.0, 50, "a"), Decoded(100, 2.0, 50, "a")],
        [Decoded(60, 1.0, 50, "b"), Decoded(60, 2.0, 50, "other")],
    ]
    row = hf_versions._row(8, "governor", pairs)
    assert row["tokens_per_s"] == 80.0 and row["other_tokens_per_s"] == 40.0
    assert row["ratio"] == row["low"] == row["high"] == row["median_of_pairs"] == 2.0
    assert row["ms_per_round"] == 20.0 and row["other_ms_per_round"] == 40.0
    assert row["num_equal"] == 1 and row["num_units"] == 2


def test_stock_modes_have_no_rounds() -> None:
    pairs = [[Decoded(10, 1.0, None, "a"), Decoded(10, 1.0, None, "a")]]
    assert hf_versions._row(1, "plain", pairs)["ms_per_round"] is None


def test_sizes_reach_the_other_process() -> None:
    sizes = Sizes(7, 8, 160, 4, True)
    assert Sizes.parse(sizes.arguments()) == sizes


def test_what_is_no_checkout_is_refused() -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="expected a checkout"):
        hf_versions._checkout("/")
