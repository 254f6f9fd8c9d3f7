"""What the benchmark of throttle policies counts."""

from __future__ import annotations

import numpy as np
import pytest
from benchmarks.throttle_search import day, joint, judged, search, surface_of
from benchmarks.throttle_summary import summarise, table

SEED = 44


@pytest.mark.parametrize("name", ["sweep", "lowest_feasible", "random"])
def test_a_search_counts_what_it_tried(name: str) -> None:
    row = search(SEED, name, 0, 12)
    assert row == search(SEED, name, 0, 12)
    assert 1 <= row["trials"] <= 12
    assert 0 <= row["far_over"] <= row["violations"] <= row["trials"]
    assert row["found"] is None or row["found"] <= 12
    assert row["saved"] <= row["best_saved"] or not row["final_keeps"] or row["final_gap"] >= 0.0


def test_the_default_keeps_the_slo_and_the_best_saves_energy() -> None:
    surface = surface_of(SEED)
    energy, over, feasible = judged(surface)
    default = int(surface.space.index(surface.space.default))
    assert feasible[default]
    assert (over[feasible] <= 1.0).all()
    assert energy[feasible].min() < energy[default]


def test_joint_tuning_never_saves_less() -> None:
    row = next(row for row in map(joint, range(41, 60)) if row["drafts"])
    assert row["saved_jointly"] >= row["saved_alone"]


def test_a_day_under_the_default_has_no_trials() -> None:
    row = day(SEED, "default", 0, 12)
    assert row["trials"] == 0
    assert row["settled"] == 12
    assert np.isfinite(row["energy_per_token_j"])


def test_the_summary_holds_every_policy() -> None:
    rows = [search(SEED, name, 0, 6) for name in ("sweep", "random")]
    rows += [{**rows[0], "policy": "constrained_bo"}, joint(SEED), day(SEED, "default", 0, 6)]
    names = {"sweep", "random", "constrained_bo"}
    assert {line["policy"] for line in table(rows)} == names
    assert set(summarise(rows)["policies"]) == names
