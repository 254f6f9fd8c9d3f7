import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from flyball.estimators.survival import (
    NEXT_TOKEN,
    NUM_FEATURES,
    THIS_TOKEN,
    Chances,
    SurvivalEstimator,
    features,
    sigmoid,
)

SLOTS = np.arange(8, dtype=np.int32)


def simulate(
    estimator: SurvivalEstimator,
    slope: float,
    effects: np.ndarray,
    num_batches: int,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Batches of 64 tokens; predictions made before they were learned, and outcomes."""
    predicted, outcomes = [], []
    for _ in range(num_batches):
        slots = rng.integers(0, len(effects), 64).astype(np.int32)
        confidence = rng.beta(2.0, 0.7, 64)
        x = features(confidence, np.full(64, np.nan), 1.0)
        accepted = (rng.random(64) < sigmoid(slope * x[1] - 0.5 + effects[slots])).astype(float)
        predicted.append(sigmoid(estimator.theta @ x + estimator.effect(slots)))
        outcomes.append(accepted)
        estimator.update(slots, x, accepted, np.repeat(SLOTS, 2), 16)
    return np.concatenate(predicted), np.concatenate(outcomes)


def calibration_error(predicted: np.ndarray, outcomes: np.ndarray, num_bins: int = 15) -> float:
    """Expected calibration error over bins of equal mass."""
    order = predicted.argsort()
    gaps = [
        abs(predicted[part].mean() - outcomes[part].mean()) * len(part)
        for part in np.array_split(order, num_bins)
    ]
    return float(sum(gaps) / len(order))


def log_loss(predicted: np.ndarray, outcomes: np.ndarray) -> float:
    return float(-np.log(np.where(outcomes > 0.5, predicted, 1.0 - predicted)).mean())


def test_before_any_outcome_a_draft_is_as_often_right_as_it_is_sure() -> None:
    confidence = np.array([0.05, 0.5, 0.9, 0.999])
    x = features(confidence, np.full(4, np.nan), 1.0)
    np.testing.assert_allclose(sigmoid(SurvivalEstimator(THIS_TOKEN).theta @ x), confidence)
    after = sigmoid(SurvivalEstimator(NEXT_TOKEN).theta @ x)
    assert (np.diff(after) > 0).all()
    assert abs(after[1] - 0.6) < 0.01


def test_predictions_become_calibrated_and_requests_are_told_apart() -> None:
    rng = np.random.default_rng(0)
    estimator = SurvivalEstimator(THIS_TOKEN)
    estimator.admit(SLOTS)
    effects = rng.normal(0.0, 0.7, 8)
    predicted, outcomes = simulate(estimator, 0.4, effects, 400, rng)
    late = slice(len(outcomes) // 4, None)
    assert calibration_error(predicted[late], outcomes[late]) < 0.02
    assert np.corrcoef(estimator.effect(SLOTS), effects)[0, 1] > 0.8


def test_log_loss_is_that_of_a_batch_fit() -> None:
    rng = np.random.default_rng(1)
    estimator = SurvivalEstimator(THIS_TOKEN)
    estimator.admit(SLOTS)
    simulate(estimator, 0.4, np.zeros(8), 200, rng)
    confidence = rng.beta(2.0, 0.7, (2, 20_000))
    x = [features(c, np.full(len(c), np.nan), 1.0) for c in confidence]
    y = [(rng.random(x_.shape[1]) < sigmoid(0.4 * x_[1] - 0.5)).astype(float) for x_ in x]
    batch = LogisticRegression(C=1e6, max_iter=1000).fit(x[0].T, y[0])
    best = log_loss(batch.predict_proba(x[1].T)[:, 1], y[1])
    assert log_loss(sigmoid(estimator.theta @ x[1]), y[1]) < 1.02 * best


def test_what_no_longer_holds_is_forgotten() -> None:
    rng = np.random.default_rng(2)
    estimator = SurvivalEstimator(THIS_TOKEN, memory=300.0)
    estimator.admit(SLOTS)
    simulate(estimator, 1.5, np.zeros(8), 200, rng)
    predicted, outcomes = simulate(estimator, 0.3, np.zeros(8), 200, rng)
    late = slice(len(outcomes) // 2, None)
    assert calibration_error(predicted[late], outcomes[late]) < 0.03


def test_a_reused_slot_forgets_its_former_request() -> None:
    rng = np.random.default_rng(3)
    estimator = SurvivalEstimator(THIS_TOKEN)
    estimator.admit(SLOTS)
    simulate(estimator, 1.0, np.linspace(-2, 2, 8), 50, rng)
    estimator.admit(SLOTS[:1])
    assert abs(estimator.effect(SLOTS[:1])) < 1.0 < abs(estimator.effect(SLOTS[1:2]))


def test_the_table_agrees_with_the_regression() -> None:
    rng = np.random.default_rng(4)
    theta = rng.normal(0.0, 0.3, (2, NUM_FEATURES))
    confidence, entropy, effect = rng.beta(2, 1, 50), 3 * rng.random(50), rng.normal(0, 1, (2, 50))
    for spread in (entropy, None):
        x = features(confidence, np.full(50, np.nan) if spread is None else spread, 3.0)
        found = sigmoid(Chances(theta).logits(confidence, spread, 3) + effect)
        np.testing.assert_allclose(found, sigmoid(theta @ x + effect), atol=0.04)


@pytest.mark.parametrize("confidence", [0.0, 1.0, 1.0005, np.nan])
def test_features_are_finite_at_the_edges(confidence: float) -> None:
    x = features(np.array([confidence]), np.array([0.0]), 1.0)
    assert x.shape == (NUM_FEATURES, 1)
    assert np.isfinite(x).all()
