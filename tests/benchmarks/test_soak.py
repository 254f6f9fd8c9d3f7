"""A short soak of every policy, and what a soak is there to find."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks import soak_run
from benchmarks.soak import soak

from flyball.controller.governor import Governor
from flyball.policies.length.heuristic import Heuristic
from flyball.policies.registry import LENGTH_POLICIES


@pytest.mark.parametrize("policy", LENGTH_POLICIES)
def test_random_calls_do_no_harm(policy: str) -> None:
    for number in range(4):
        run = soak((policy, number == 3, [1, number], 420))
        assert run["failure"] == ""
        assert run["calls"] >= 420


def out_of_range(policy: Heuristic, view: Any) -> np.ndarray:
    return np.full(len(view.slots), view.max_draft_len + 1, np.int32)


def hoards(policy: Heuristic, result: Any) -> None:
    policy.__dict__.setdefault("hoard", []).append(np.zeros(200))


def raises(*_: Any, **__: Any) -> None:
    raise RuntimeError("injected")


@pytest.mark.parametrize("alone", [False, True])
@pytest.mark.parametrize(
    ("method", "bad", "found"),
    [
        ("decide", out_of_range, "expected"),
        ("learn", raises, "injected"),
        ("admit", raises, "injected"),
        ("learn", hoards, "memory grew"),
    ],
)
def test_a_bad_policy_is_found(
    method: str, bad: Any, found: str, alone: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Heuristic, method, bad)
    monkeypatch.setattr(soak_run, "MOST_GROWTH", 64 * 1024)
    run = soak(("heuristic", alone, [2, 0], 2000))
    assert found in run["failure"]


def test_an_exception_that_leaves_the_governor_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Governor, "compare", raises)
    monkeypatch.setattr(Governor, "read", raises)
    runs = [soak(("goodput", False, [3, number], 400)) for number in range(4)]
    assert any("injected" in run["failure"] for run in runs)
