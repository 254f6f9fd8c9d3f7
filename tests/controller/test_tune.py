from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flyball.controller.errors import TuneError
from flyball.controller.policy_file import load_policy
from flyball.controller.space import Space, load_space
from flyball.controller.tune import Result, Tuner, TuneSettings

NUM_SLICES = 6


@pytest.fixture(scope="module")
def space() -> Space:
    return load_space(
        {
            "version": 1,
            "policy": {"version": 1, "length": {"policy": "threshold"}},
            "parameters": {
                "length.policy": {"choices": ["threshold", "static"]},
                "length.draft_len": {"low": 0, "high": 16, "integer": True},
                "length.min_confidence": {"low": 0.0, "high": 1.0},
            },
        }
    )


class Landscape:
    """Rates with one peak for each policy, the higher one at a confidence of 0.37."""

    def __init__(self) -> None:
        self.calls: list[tuple[dict[str, Any], int]] = []

    def __call__(self, tasks: Sequence[tuple[str, int]]) -> list[Result]:
        return [self.result(*task) for task in tasks]

    def result(self, policy: str, number: int) -> Result:
        length = load_policy(json.loads(policy)).length
        self.calls.append((length.model_dump(), number))
        if length.policy == "static":
            rate, latency_s = 90.0 - (length.draft_len - 5) ** 2, 0.01 * (1 + length.draft_len)
            joules = 1.0
        else:
            rate = 100.0 - 100.0 * (length.min_confidence - 0.37) ** 2
            latency_s = 0.1 * (1.0 - length.min_confidence)
            joules = 1.0 + 8.0 * (length.min_confidence - 0.6) ** 2
        return Result(rate * (1.0 + 0.1 * number), latency_s, joules)


def tune(space: Space, path: Path, how: TuneSettings, evaluate: Any = None) -> Tuner:
    tuner = Tuner(space, evaluate or Landscape(), how, path, "trace")
    for _ in tuner.run():
        pass
    return tuner


def test_the_peak_is_found(space: Space, tmp_path: Path) -> None:
    tuner = tune(space, tmp_path / "t.jsonl", TuneSettings(30, NUM_SLICES))
    assert tuner.best is not None
    assert tuner.best.point["length.policy"] == "threshold"
    assert tuner.best.point["length.min_confidence"] == pytest.approx(0.37, abs=0.02)
    places = space.encode([trial.point for trial in tuner.trials])
    assert len(np.unique(places, axis=0)) == 30


def test_a_limit_on_latency_is_kept(space: Space, tmp_path: Path) -> None:
    limits = {"token_latency_s": 0.05}  # a confidence of 0.5 or more
    tuner = tune(space, tmp_path / "t.jsonl", TuneSettings(40, NUM_SLICES, limits=limits))
    assert tuner.best is not None and tuner.best.mean("token_latency_s") <= 0.05
    assert tuner.best.point["length.min_confidence"] == pytest.approx(0.5, abs=0.03)


def test_several_limits_are_kept_together(space: Space, tmp_path: Path) -> None:
    limits = {"token_latency_s": 0.06, "joules_per_token": 1.0 + 8.0 * 0.05**2}
    tuner = tune(space, tmp_path / "t.jsonl", TuneSettings(50, NUM_SLICES, limits=limits))
    assert tuner.best is not None
    assert all(tuner.best.mean(name) <= limit for name, limit in limits.items())
    assert tuner.best.point["length.min_confidence"] == pytest.approx(0.55, abs=0.02)


def test_poor_trials_are_stopped_early(space: Space, tmp_path: Path) -> None:
    landscape = Landscape()
    tuner = tune(space, tmp_path / "t.jsonl", TuneSettings(20, NUM_SLICES), landscape)
    stopped = [trial for trial in tuner.trials if trial.stopped]
    assert stopped
    assert len(landscape.calls) == sum(len(trial.rates) for trial in tuner.trials)
    assert all(len(trial.rates) < NUM_SLICES for trial in stopped)
    assert tuner.best is not None
    for trial in stopped:
        assert trial.rates.mean() < tuner.best.rates[: len(trial.rates)].mean()


def test_a_killed_tuning_goes_on_as_if_nothing_had_happened(space: Space, tmp_path: Path) -> None:
    how = TuneSettings(14, NUM_SLICES)
    whole = tune(space, tmp_path / "whole.jsonl", how)
    lines = (tmp_path / "whole.jsonl").read_bytes().splitlines(keepends=True)
    for kept in (0, 1, 2, 5, 40, len(lines) - 1):
        path = tmp_path / f"cut{kept}.jsonl"
        path.write_bytes(b"".join(lines[:kept]) + b'{"trial": 3, "sl')  # killed in mid-line
        landscape = Landscape()
        again = tune(space, path, how, landscape)
        assert [trial.point for trial in again.trials] == [trial.point for trial in whole.trials]
        assert path.read_bytes() == b"".join(lines)
        known = sum(b'"slice"' in line for line in lines[:kept])
        total = sum(b'"slice"' in line for line in lines)
        assert len(landscape.calls) == total - known


def test_more_trials_go_on_from_fewer(space: Space, tmp_path: Path) -> None:
    few = tune(space, tmp_path / "t.jsonl", TuneSettings(10, NUM_SLICES))
    more = tune(space, tmp_path / "t.jsonl", TuneSettings(12, NUM_SLICES))
    assert [t.point for t in more.trials[:10]] == [t.point for t in few.trials]
    assert len(more.trials) == 12


def test_the_ledger_of_another_tuning_is_refused(space: Space, tmp_path: Path) -> None:
    tune(space, tmp_path / "t.jsonl", TuneSettings(3, NUM_SLICES))
    before = (tmp_path / "t.jsonl").read_bytes()
    with pytest.raises(TuneError, match="another folder"):
        tune(space, tmp_path / "t.jsonl", TuneSettings(3, NUM_SLICES, seed=1))
    assert (tmp_path / "t.jsonl").read_bytes() == before


def test_a_small_space_ends_when_all_of_it_was_tried(tmp_path: Path) -> None:
    space = load_space(
        {
            "version": 1,
            "policy": {"version": 1, "length": {"policy": "static", "draft_len": 1}},
            "parameters": {"length.draft_len": {"low": 0, "high": 4, "integer": True}},
        }
    )
    tuner = tune(space, tmp_path / "t.jsonl", TuneSettings(60, NUM_SLICES))
    assert sorted(trial.point["length.draft_len"] for trial in tuner.trials) == [0, 1, 2, 3, 4]


def test_a_file_that_is_no_ledger_is_left_as_it_is(space: Space, tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    tune(space, path, TuneSettings(2, NUM_SLICES))
    for content in (b"notes of mine\n", path.read_bytes().replace(b'"slice": 1', b'"slice" 1')):
        path.write_bytes(content)
        with pytest.raises(TuneError, match="line [0-9]+ is none"):
            tune(space, path, TuneSettings(2, NUM_SLICES))
        assert path.read_bytes() == content


def test_two_tunings_do_not_share_a_ledger(space: Space, tmp_path: Path) -> None:
    first = Tuner(space, Landscape(), TuneSettings(2, NUM_SLICES), tmp_path / "t.jsonl", "trace")
    with pytest.raises(TuneError, match="another tuning"):
        tune(space, tmp_path / "t.jsonl", TuneSettings(2, NUM_SLICES))
    assert len(list(first.run())) == 2


def test_an_objective_below_nothing_is_searched_too(space: Space, tmp_path: Path) -> None:
    tuner = tune(space, tmp_path / "t.jsonl", TuneSettings(14, NUM_SLICES, risk=20.0))
    assert len(tuner.trials) == 14
