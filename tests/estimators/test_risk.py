"""Thresholds next to a search over all of them, and the mean loss they promise."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flyball.estimators.risk import risk_threshold

Floats = np.ndarray


def searched(scores: Floats, share: Floats, num_groups: int, risk: float) -> float:
    """The least of 0 and the scores with which the corrected mean loss is within the risk."""
    for threshold in [0.0, *sorted(scores.tolist())]:
        if (share[scores > threshold].sum() + 1.0) / (num_groups + 1) <= risk + 1e-9:
            return threshold
    return float("inf")


@given(
    scores=st.lists(st.floats(0.0, 9.0).map(lambda x: round(x, 1)), max_size=30),
    others=st.integers(0, 20),
    risk=st.floats(0.01, 0.5),
)
def test_it_is_the_least_threshold_within_the_risk(
    scores: list[float], others: int, risk: float
) -> None:
    every, num_groups = np.array(scores), len(scores) + others
    share = np.ones(len(scores))
    assert risk_threshold(every, share, num_groups, risk) == searched(
        every, share, num_groups, risk
    )


@given(keep=st.integers(1, 5), num_groups=st.integers(1, 30), seed=st.integers(0, 10**6))
def test_winners_of_a_group_share_its_loss(keep: int, num_groups: int, seed: int) -> None:
    scores = np.random.default_rng(seed).exponential(size=keep * num_groups)
    share = np.full(len(scores), 1.0 / keep)
    assert risk_threshold(scores, share, num_groups, 0.1) == searched(
        scores, share, num_groups, 0.1
    )


@pytest.mark.parametrize(("num_groups", "finite"), [(0, False), (18, False), (19, True)])
def test_no_promise_is_made_of_too_few_groups(num_groups: int, finite: bool) -> None:
    scores = np.arange(float(num_groups))
    found = risk_threshold(scores, np.ones(num_groups), num_groups, 0.05)
    assert np.isfinite(found) is np.bool_(finite)


@pytest.mark.parametrize("num_groups", [40, 100])
@pytest.mark.parametrize("risk", [0.05, 0.2])
def test_a_new_group_s_mean_loss_is_within_the_risk_and_near_it(
    num_groups: int, risk: float
) -> None:
    rng = np.random.default_rng(0)
    losses = []
    for _ in range(4000):
        scores = rng.exponential(size=num_groups)
        threshold = risk_threshold(scores, np.ones(num_groups), num_groups, risk)
        losses.append(np.exp(-threshold))  # P(a new score is above)
    standard_error = np.std(losses) / len(losses) ** 0.5
    assert np.mean(losses) <= risk + 3.0 * standard_error
    assert np.mean(losses) >= risk - 1.0 / num_groups - 3.0 * standard_error
