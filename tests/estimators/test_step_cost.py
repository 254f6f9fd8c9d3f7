"""A round's cost follows from the seconds of engine steps that do several things at once."""

import numpy as np
import pytest

from flyball.estimators.fill import FillEstimator
from flyball.estimators.step_cost import StepCostEstimator

K = 8


def step_s(size: float, verify_len: float, prefill: int, draft_steps: float) -> float:
    """An engine with a floor up to 16 tokens in a forward, and a slope beyond."""
    tokens = size * verify_len
    forward = 8e-3 + 3e-4 * size + 2e-4 * max(0.0, tokens - 16.0) + 1e-4 * prefill
    return forward + draft_steps * (8e-4 + 2e-5 * size)


def round_s(size: int) -> np.ndarray:
    return np.array([step_s(size, k + 1, 0, k) for k in range(K + 1)])


def drive(
    cost: StepCostEstimator,
    num_steps: int,
    rng: np.random.Generator,
    lengths: tuple[int, ...],
    sizes: tuple[int, ...] = (8,),
    slowness: float = 1.0,
) -> None:
    """Steps whose drafts are verified in the next one; half of them read a prompt besides."""
    before = lengths[0]
    for _ in range(num_steps):
        size, draft_len = int(rng.choice(sizes)), int(rng.choice(lengths))
        prefill = int(rng.integers(20, 90)) if rng.random() < 0.5 else 0
        noise = float(np.exp(0.05 * rng.standard_normal())) * slowness
        seconds = step_s(size, 1 + before, prefill, draft_len) * noise
        cost.update(size, 1 + before, prefill, draft_len, seconds)
        before = draft_len


def test_nothing_is_known_before_the_first_step() -> None:
    cost = StepCostEstimator(K, FillEstimator(K))
    assert not cost.measured(1)
    assert np.isnan(cost.round_s(4)).all()


def test_rounds_of_all_sizes_follow_from_the_steps_of_some() -> None:
    cost, rng = StepCostEstimator(K, FillEstimator(K)), np.random.default_rng(0)
    drive(cost, 600, rng, (0, 1, 2, 4, 8), (1, 4, 30))
    for size in (1, 4, 16, 32):
        assert cost.round_s(size)[0] == pytest.approx(round_s(size), rel=0.1)


def test_a_few_probes_tell_about_a_new_size() -> None:
    cost, rng = StepCostEstimator(K, FillEstimator(K)), np.random.default_rng(1)
    drive(cost, 400, rng, (3, 4), (1, 2))
    while (probe := cost.next_probe(32)) is not None:
        drive(cost, 1, rng, (probe,), (32,))
        cost.probed(32, 0)
    drive(cost, 30, rng, (2,), (32,))
    assert cost.round_s(32)[0] == pytest.approx(round_s(32), rel=0.15)


def test_what_was_learned_stays_while_loads_do_not_vary() -> None:
    cost, rng = StepCostEstimator(K, FillEstimator(K)), np.random.default_rng(2)
    drive(cost, 60, rng, (0, 4, 8))
    drive(cost, 5000, rng, (2,))
    drive(cost, 5000, rng, (2,), (1,))
    assert cost.round_s(8)[0] == pytest.approx(round_s(8), rel=0.1)


def test_all_follow_when_the_machine_slows_down_or_recovers() -> None:
    cost, rng = StepCostEstimator(K, FillEstimator(K)), np.random.default_rng(3)
    drive(cost, 1500, rng, (0, 2, 4, 8))
    for slowness in (2.0, 1.0):
        drive(cost, 400, rng, (2,), slowness=slowness)
        assert cost.round_s(8)[0, 2] == pytest.approx(slowness * round_s(8)[2], rel=0.05)
        assert cost.round_s(8)[0] == pytest.approx(slowness * round_s(8), rel=0.25)


def test_now_and_then_other_lengths_are_tried_again() -> None:
    cost, rng = StepCostEstimator(K, FillEstimator(K)), np.random.default_rng(4)
    tried = []
    for _ in range(2000):
        probe = cost.next_probe(8)
        if probe is not None:
            tried.append(probe)
            cost.probed(8, 0)
        drive(cost, 1, rng, (2 if probe is None else probe,))
    assert tried[-6:] in ([0, 4] * 3, [4, 0] * 3)
    assert len(tried) <= 12


def test_a_longer_draft_never_costs_less_and_ever_more() -> None:
    rng = np.random.default_rng(4)
    for _ in range(200):
        cost = StepCostEstimator(K, FillEstimator(K))
        for _ in range(int(rng.integers(1, 60))):
            size = int(rng.integers(1, 200))
            load = (size, 1 + rng.random() * K, int(rng.integers(500)), int(rng.integers(K + 1)))
            cost.update(*load, float(rng.lognormal(-4, 2)))
        seconds = cost.round_s(int(rng.integers(1, 200)))
        assert (seconds > 0.0).all()
        assert (np.diff(seconds) >= 0.0).all()
        assert (np.diff(seconds, 2) >= -1e-9 * seconds.max()).all()
        assert (seconds[0] >= seconds[1]).all()


def test_one_interrupted_step_moves_little() -> None:
    cost, rng = StepCostEstimator(K, FillEstimator(K)), np.random.default_rng(5)
    drive(cost, 300, rng, (0, 2, 4, 8))
    before = cost.round_s(8)[0]
    cost.update(8, 5.0, 0, 4, 60.0)
    assert (cost.round_s(8)[0] / before).max() < 1.1


def test_a_cold_start_is_forgotten() -> None:
    cost, rng = StepCostEstimator(K, FillEstimator(K)), np.random.default_rng(6)
    drive(cost, 3, rng, (0, 4, 8), slowness=20.0)
    drive(cost, 100, rng, (0, 2, 4, 8))
    assert cost.round_s(8)[0] == pytest.approx(round_s(8), rel=0.15)


def test_drafts_that_are_not_found_cost_no_verification() -> None:
    fill = FillEstimator(K)
    cost, rng = StepCostEstimator(K, fill), np.random.default_rng(7)
    drive(cost, 200, rng, (0, 2, 4, 8))
    fill.update(np.zeros(10**6, np.int32), np.ones(10**6, np.bool_))
    verifying = cost.round_s(8)[1]
    assert verifying == pytest.approx(np.full(K + 1, verifying[0]), rel=1e-3)


def test_counts_may_be_numpys() -> None:
    cost = StepCostEstimator(K, FillEstimator(K))
    cost.update(np.int64(1), np.float64(2.0), np.int64(100), np.int64(1), np.float64(1e-2))
    assert cost.measured(1)


def test_memory_is_bounded() -> None:
    cost = StepCostEstimator(64, FillEstimator(64))
    for number in range(5000):
        cost.update(1 + number % 300, 1.0 + number % 64, number % 1000, number % 65, 1e-2)
    assert len(cost._kinds) <= 256
