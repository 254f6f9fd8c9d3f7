"""Latencies are of stretches of a request's tokens."""

from __future__ import annotations

import numpy as np
import pytest

from flyball.controller.stream_latencies import STRETCH, StreamLatencies


def quantiles(found: StreamLatencies, *shares: float) -> list[float]:
    return [found.counts.quantile(share) for share in shares]


def test_steps_of_several_tokens_are_no_slow_tokens() -> None:
    found = StreamLatencies()
    for _ in range(STRETCH):  # every other round accepts three drafted tokens
        found.add(np.array([3]), np.array([4]), 0.01)
        found.add(np.array([3]), np.array([1]), 0.01)
    assert quantiles(found, 0.01, 1.0) == pytest.approx([0.004, 0.004], rel=0.1)


def test_each_request_has_its_own() -> None:
    found = StreamLatencies()
    for _ in range(STRETCH):
        found.add(np.array([7, 0]), np.array([1, 2]), 0.01)
    assert quantiles(found, 0.6, 1.0) == pytest.approx([0.005, 0.01], rel=0.02)


def test_nothing_is_told_before_a_stretch_is_over() -> None:
    found = StreamLatencies()
    found.add(np.array([0, 1]), np.array([STRETCH - 1, 0]), 0.01)
    found.add(np.array([], np.int64), np.array([], np.int64), 0.01)
    assert np.isnan(found.counts.quantile(0.5))
