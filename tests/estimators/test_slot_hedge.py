import numpy as np
import pytest
from scipy.optimize import brentq

from flyball.estimators.hedge import FixedShare
from flyball.estimators.rows import places, sum_rows
from flyball.estimators.slot_hedge import SlotHedge
from flyball.estimators.slot_history import SlotHistory
from flyball.estimators.slot_normal_hedge import SlotNormalHedge, normal_weights

SLOTS = np.array([4, 1, 7], np.int32)


def test_each_slot_is_a_fixed_share_hedge_of_its_own() -> None:
    prior, rng = np.array([1.0, 1.0, 2.0]), np.random.default_rng(0)
    hedge = SlotHedge(prior, rate=0.7, share=0.05, memory=100.0)
    hedge.reset(SLOTS)
    plain = [FixedShare(prior, rate=0.7, share=0.05) for _ in SLOTS]
    for _ in range(20):
        gain = rng.random((3, 3))
        gain[rng.random((3, 3)) < 0.3] = np.nan
        hedge.learn(SLOTS, np.array([2, 0, 1]), gain)
        for i, row in enumerate((2, 0, 1)):
            plain[row].update(-gain[i], 1.0)
    np.testing.assert_allclose(hedge.weight(SLOTS), [p.weight for p in plain], rtol=1e-9)


def test_sleepers_keep_their_weight() -> None:
    hedge = SlotHedge(np.ones(3), rate=1.0, share=1e-12, memory=100.0)
    hedge.reset(SLOTS)
    hedge.learn(SLOTS, np.zeros(5, np.intp), np.array([[1.0, 0.2, np.nan]] * 5))
    weight = hedge.weight(SLOTS)
    assert weight[0, 0] > 5 * weight[0, 1]
    assert weight[0, 2] == pytest.approx(1 / 3, abs=1e-9)
    np.testing.assert_allclose(weight[1:], 1 / 3)  # of slots that saw nothing


def test_new_slots_start_from_the_mean_of_those_that_learn() -> None:
    hedge = SlotHedge(np.ones(2), rate=1.0, share=0.01, memory=10.0)
    hedge.reset(SLOTS)
    for _ in range(50):
        gain = np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
        hedge.learn(SLOTS, np.arange(3), gain)
    np.testing.assert_allclose(hedge.start, hedge.weight(SLOTS).mean(axis=0), atol=1e-3)
    fresh = np.array([90], np.int32)
    hedge.reset(fresh)
    np.testing.assert_array_equal(hedge.weight(fresh)[0], hedge.start)


def test_normal_hedge_solves_for_its_scale() -> None:
    regret = np.random.default_rng(0).standard_normal((20, 5)) * 3.0
    regret[0] = [-1.0, -2.0, 0.0, -1.0, -3.0]
    found = normal_weights(regret)
    np.testing.assert_allclose(found[0], 0.2)
    for row, weight in zip(regret[1:], found[1:], strict=True):
        positive = np.maximum(row, 0.0)

        def excess(c: float, positive: np.ndarray = positive) -> float:
            return float(np.exp(positive**2 / (2 * c)).mean() - np.e)

        c = brentq(excess, positive.max() ** 2 / 8, positive.max() ** 2)
        expected = positive / c * np.exp(positive**2 / (2 * c))
        np.testing.assert_allclose(weight, expected / expected.sum(), atol=1e-4)


def test_normal_hedge_leaves_sleepers_their_regret() -> None:
    hedge = SlotNormalHedge(3, forgotten=0.0)
    hedge.reset(SLOTS)
    both = np.array([[0.9, 0.1, 0.5]] * 4)
    hedge.learn(SLOTS, np.zeros(4, np.intp), both)
    before = hedge.weight(SLOTS)
    hedge.learn(SLOTS, np.zeros(2, np.intp), np.array([[np.nan, 0.7, np.nan]] * 2))
    np.testing.assert_array_equal(hedge.weight(SLOTS), before)  # compared with itself alone


def test_rows_are_summed_in_any_order() -> None:
    rng = np.random.default_rng(0)
    for num_rows, num_values in ((0, 0), (5, 0), (1, 6), (3, 20), (40, 30)):
        row = rng.integers(0, max(1, num_rows), num_values)
        values = rng.random((num_values, 2, 3))
        expected = np.zeros((num_rows, 2, 3))
        for at, value in zip(row, values, strict=True):
            expected[at] += value
        np.testing.assert_allclose(sum_rows(values, row, num_rows), expected)


def test_places_number_the_positions_of_a_row() -> None:
    row = np.array([2, 0, 2, 2, 0])
    order, place = places(row, np.bincount(row))
    assert order.tolist() == [1, 4, 0, 2, 3]
    assert place.tolist() == [0, 1, 0, 1, 2]


@pytest.mark.parametrize("window", [0, 1, 3])
def test_histories_sum_the_last_positions(window: int) -> None:
    rng, history = np.random.default_rng(0), SlotHistory((2,), window)
    history.reset(SLOTS)
    seen: list[list[np.ndarray]] = [[], [], []]
    for _ in range(10):
        row = rng.integers(0, 3, rng.integers(0, 12))
        values = rng.random((len(row), 2))
        history.add(SLOTS, row, values)
        for at, value in zip(row, values, strict=True):
            seen[at].append(value)
    expected = [np.sum(values[-window:], axis=0) for values in seen]
    np.testing.assert_allclose(history.total(SLOTS), expected)
    assert history.num_seen(SLOTS).tolist() == [len(values) for values in seen]
