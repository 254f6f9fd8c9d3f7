import numpy as np
import pytest

from flyball.controller.price import PriceCorrection, quote


def tokens(survival: np.ndarray) -> np.ndarray:
    """Expected tokens of one way of drafting, from survival (n, K)."""
    return np.pad(survival, ((0, 0), (1, 0)), constant_values=1.0).cumsum(axis=1)[None]


def geometric(acceptance: float, length: int) -> np.ndarray:
    return acceptance ** np.arange(1, length + 1)


def test_the_price_of_one_request_is_its_own_best_rate() -> None:
    seconds = 1.0 + 0.1 * np.arange(17)
    survival = geometric(0.8, 16)[None]
    rates = (1 + np.concatenate([[0], survival[0].cumsum()])) / seconds
    result = quote(tokens(survival), seconds[None])
    assert result.price == pytest.approx(rates.max())
    assert result.draft_len == rates.argmax()


def test_drafting_is_dropped_where_it_costs_more_than_it_brings() -> None:
    seconds = 1.0 + 0.9 * np.arange(9)
    assert quote(tokens(geometric(0.3, 8)[None]), seconds[None]).draft_len == 0


def test_slow_requests_weigh_more() -> None:
    survival = np.stack([geometric(0.95, 8), geometric(0.2, 8)])
    weight = quote(tokens(survival), 1.0 + 0.1 * np.arange(9)[None]).weight
    assert weight[1] > weight[0]
    assert weight.mean() == pytest.approx(1.0)


def test_correction_is_realised_over_quoted_and_bounded() -> None:
    correction = PriceCorrection(memory=50)
    for _ in range(1000):
        correction.update(1.2, 1.0)
    assert correction.factor == pytest.approx(1.2, rel=1e-3)
    for _ in range(1000):
        correction.update(9.0, 1.0)
    assert correction.factor == 1.5
