"""What is sure enough stays or is tried, and certificates need belief's consent."""

from __future__ import annotations

from typing import Any

import numpy as np

from flyball.policies.throttle.judged import judge

LIMITS = np.array([0.0, 0.0])


def judged(latency: list[float], deviation: list[float], **changed: Any) -> Any:
    """Settings of equal cost, and the safe one; load is low and known."""
    num = len(latency) + 1
    mean = np.zeros((3, num))
    mean[1, :-1], mean[2] = latency, -2.0
    doubt = np.full((3, num), 0.01)
    doubt[1, :-1] = deviation
    given = {"sure": np.zeros(num, np.bool_), "calm": np.full(num, np.inf), **changed}
    return judge([(1.0, mean, doubt)], LIMITS, **given, stays=2.8, tries=1.6)


def test_trials_need_less_than_what_stays_and_the_safe_setting_nothing() -> None:
    found = judged([-0.1, -0.1, -0.1], [0.03, 0.05, 0.08])
    assert found.keeps.tolist() == [True, False, False, True]
    assert found.allowed.tolist() == [True, True, False, True]
    assert found.unsure[:, 2].tolist() == [True, False]


def test_what_may_be_far_over_is_not_tried() -> None:
    assert judged([-0.5, -0.5], [0.2, 0.3]).allowed.tolist() == [True, False, True]


def test_a_certificate_counts_only_where_the_mean_agrees() -> None:
    sure = np.array([True, True, False])
    found = judged([-0.01, 0.01], [0.1, 0.1], sure=sure)
    assert found.keeps.tolist() == found.allowed.tolist() == [True, False, True]
