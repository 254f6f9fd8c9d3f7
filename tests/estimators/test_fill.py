"""How many tokens drafts have is learned though plans cut them short."""

import numpy as np
import pytest

from flyball.estimators.fill import FillEstimator

K = 8


def test_cut_drafts_tell_of_what_they_had() -> None:
    fill, rng = FillEstimator(K), np.random.default_rng(7)
    for _ in range(300):  # one draft in four is found, and has 3 tokens, or more than anyone plans
        found = np.where(rng.random(16) < 0.25, rng.choice([3, 99], 16), 0)
        planned = rng.integers(0, K + 1, 16)
        fill.update(np.minimum(found, planned).astype(np.int32), found < planned)
    expected = [1.0] + [0.25] * 3 + [0.125] * (K - 3)
    assert fill.share == pytest.approx(expected, rel=0.15)


def test_without_a_sign_of_an_end_all_drafts_are_full() -> None:
    fill = FillEstimator(K)
    fill.update(np.array([3, 0, 8], np.int32), np.zeros(3, np.bool_))
    assert fill.share.tolist() == [1.0] * (K + 1)
