import numpy as np
import pytest

from flyball.estimators import levels
from flyball.estimators.acceptance import FLAT_PRIOR, FRAILTIES, AcceptanceEstimator
from flyball.estimators.drafts import unroll

PRIOR = np.full(4, FLAT_PRIOR)


def acceptance(estimator: AcceptanceEstimator, slots: np.ndarray, cells: np.ndarray) -> np.ndarray:
    """Probability (n, c) that a token is accepted: the model that the class documents."""
    by_frailty = np.exp(-FRAILTIES[:, None] * estimator.hazard[cells])
    return estimator.frailties(slots) @ by_frailty


def simulate(estimator: AcceptanceEstimator, acceptance: np.ndarray, rounds: int) -> None:
    """Rounds of 4 tokens for requests with constant acceptance (n,); only what is seen is told."""
    rng = np.random.default_rng(0)
    slots = np.arange(len(acceptance), dtype=np.int32)
    estimator.admit(slots)
    for _ in range(rounds):
        hit = rng.random((len(slots), 4)) < acceptance[:, None]
        accepted = hit.cumprod(axis=1).sum(axis=1)
        observed = np.minimum(accepted + 1, 4)
        tokens = unroll(accepted, observed)
        estimator.update(slots[tokens.row], tokens.position, tokens.rejected, slots)


def test_requests_are_told_apart_although_rejections_censor_what_follows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(levels, "_JUMP", 1e-4)  # hardly anybody changes
    truth = np.array([0.4, 0.6, 0.8, 0.95] * 8)
    estimator = AcceptanceEstimator(PRIOR, len(PRIOR), memory=1e9)
    simulate(estimator, truth, 400)
    slots = np.arange(len(truth), dtype=np.int32)
    estimate = acceptance(estimator, slots, np.arange(4))
    assert np.abs(estimate - truth[:, None]).max() < 0.06


def test_a_new_request_is_believed_to_be_like_the_others() -> None:
    estimator = AcceptanceEstimator(PRIOR, len(PRIOR))
    simulate(estimator, np.full(16, 0.9), 200)
    fresh = np.array([40], np.int32)
    estimator.admit(fresh)
    assert abs(acceptance(estimator, fresh, np.arange(4)) - 0.9).max() < 0.04


def test_what_was_not_observed_changes_nothing() -> None:
    estimator = AcceptanceEstimator(PRIOR, len(PRIOR))
    slots = np.arange(3, dtype=np.int32)
    estimator.admit(slots)
    before = acceptance(estimator, slots, np.arange(4))
    nothing = unroll(np.zeros(3, np.int32), np.zeros(3, np.int32))
    estimator.update(slots[nothing.row], nothing.position, nothing.rejected, slots[:0])
    np.testing.assert_allclose(acceptance(estimator, slots, np.arange(4)), before)


def test_a_world_that_changes_is_believed_sooner_than_memory_fades() -> None:
    slots, rng = np.arange(4, dtype=np.int32), np.random.default_rng(1)
    estimator = AcceptanceEstimator(PRIOR, len(PRIOR))
    for truth in [0.9] * 100 + [0.3] * 8:
        hit = rng.random((64, 4)) < truth  # 16 rounds of 4 requests
        accepted = hit.cumprod(axis=1).sum(axis=1)
        observed = np.minimum(accepted + 1, 4)
        tokens = unroll(accepted, observed)
        owner = slots.repeat(16)
        estimator.admit(slots)  # all are new, so only the shared record tells
        estimator.update(owner[tokens.row], tokens.position, tokens.rejected, owner, 16)
    # 128 rounds later memory alone would still say 0.6 and more.
    assert np.exp(-estimator.hazard[0]) < 0.4


def test_requests_that_differ_are_no_change() -> None:
    estimator = AcceptanceEstimator(PRIOR, len(PRIOR))
    simulate(estimator, np.array([0.4, 0.6, 0.8, 0.95] * 8), 400)
    assert estimator._drift.num_observed[0] > 300 * 32


def test_a_reused_slot_forgets_its_former_request() -> None:
    estimator = AcceptanceEstimator(PRIOR, len(PRIOR))
    simulate(estimator, np.array([0.2, 0.9]), 50)
    slots = np.array([0], np.int32)
    estimator.admit(slots)
    others = estimator.frailties(np.array([1], np.int32))
    estimator.admit(np.array([2], np.int32))
    fresh = estimator.frailties(np.array([2], np.int32))
    np.testing.assert_array_equal(estimator.frailties(slots), fresh)
    assert (others != fresh).any()
