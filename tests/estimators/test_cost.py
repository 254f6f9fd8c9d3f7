import numpy as np

from flyball.estimators.cost import CostEstimator, lower_hull


def learn(estimator: CostEstimator, lengths: list[int], noise: float = 0.0) -> None:
    rng = np.random.default_rng(0)
    for k in lengths:
        verify = (3.5 + (0.8 if k else 0.0) + 0.07 * k) * (1 + noise * rng.exponential())
        draft = 0.5 * k * (1 + noise * rng.exponential())
        estimator.update(1, k + 1, k, verify + draft + 0.3, draft, verify)


def test_the_curve_bends_where_the_engine_does() -> None:
    estimator = CostEstimator(16)
    learn(estimator, list(range(17)) * 40)
    k = np.arange(17)
    truth = 3.8 + 0.8 * (k > 0) + 0.57 * k
    np.testing.assert_allclose(estimator.round_s(1)[0], truth, rtol=0.02)


def test_lengths_never_run_are_interpolated() -> None:
    estimator = CostEstimator(16)
    learn(estimator, [4, 0, 16] * 30)
    assert abs(estimator.round_s(1)[0][10] / (4.6 + 5.7) - 1) < 0.05


def test_a_draft_that_starts_slowly_does_not_make_its_further_steps_dear() -> None:
    estimator = CostEstimator(16)
    for k in np.random.default_rng(3).integers(1, 5, 400).tolist() + [8, 16] * 4:
        estimator.update(1, k + 1, k, 4.3 + 0.5 * k, 0.5 + 0.5 * k, 3.5)
    k = np.arange(1, 17)
    np.testing.assert_allclose(estimator.round_s(1)[0][1:], 4.3 + 0.5 * k, rtol=0.05)


def test_unknown_batch_sizes_are_nan_and_ask_for_probes() -> None:
    estimator = CostEstimator(8)
    assert np.isnan(estimator.round_s(4)[0]).all()
    asked = []
    while (probe := estimator.next_probe(1)) is not None:
        asked.append(probe)
        learn(estimator, [probe])
    assert {0, 8} <= set(asked)
    assert not np.isnan(estimator.round_s(1)[0]).any()


def test_one_interrupted_step_moves_the_curve_by_less_than_a_tenth() -> None:
    estimator = CostEstimator(8)
    learn(estimator, [0, 4, 8] * 30)
    before = estimator.round_s(1)[0]
    estimator.update(1, 5, 4, 500.0, 2.0, 497.0)
    assert (estimator.round_s(1)[0] / before).max() < 1.1


def test_seconds_of_the_whole_step_are_enough() -> None:
    estimator = CostEstimator(4)
    for _ in range(20):
        for k in range(5):
            estimator.update(2, k + 1, k, 2.0 + 0.5 * k, None, None)
    np.testing.assert_allclose(estimator.round_s(2)[0], 2.0 + 0.5 * np.arange(5), rtol=0.02)


def test_a_cold_first_round_is_forgotten_at_every_length() -> None:
    estimator = CostEstimator(16)
    estimator.update(1, 5, 4, 500.0, 100.0, 400.0)
    learn(estimator, [0, 16, 4, 0, 16] + [4, 8] * 10)
    truth = 3.8 + 0.8 * (np.arange(17) > 0) + 0.57 * np.arange(17)
    assert np.abs(estimator.round_s(1)[0][[0, 4, 8, 16]] / truth[[0, 4, 8, 16]] - 1).max() < 0.1


def test_lengths_that_are_not_run_follow_when_the_machine_slows_down_or_recovers() -> None:
    estimator = CostEstimator(16)
    learn(estimator, [0, 4, 16] * 30)
    before = estimator.round_s(1)[0]
    for factor in (2.0, 1.0):
        for _ in range(300):
            estimator.update(1, 5, 4, factor * 6.88, factor * 2.0, factor * 4.58)
        ratio = estimator.round_s(1)[0] / before
        assert np.abs(ratio[[0, 16]] / factor - 1).max() < 0.1


def test_curves_stay_positive_whatever_comes() -> None:
    rng = np.random.default_rng(1)
    estimator = CostEstimator(16)
    for _ in range(2000):
        k = int(rng.integers(0, 17))
        verify, draft = rng.lognormal(0, 3), k * rng.lognormal(0, 3)
        estimator.update(1, k + 1, k, verify + draft, draft, verify)
        assert (estimator.round_s(1)[0] > 0).all()


def test_the_hull_is_convex_below_and_touches() -> None:
    rng = np.random.default_rng(2)
    for _ in range(100):
        seconds = rng.random(9).cumsum()
        hull = lower_hull(seconds)
        assert (hull <= seconds + 1e-12).all()
        assert (np.diff(hull, 2) >= -1e-9).all()
        assert hull[0] == seconds[0]
        assert hull[-1] == seconds[-1]
