import numpy as np

from flyball.estimators.acceptance import FLAT_PRIOR, AcceptanceEstimator
from flyball.estimators.memories import Memories

SLOT = np.zeros(1, np.int32)


def test_the_memory_that_foretells_best_gets_the_weight_and_gives_it_back() -> None:
    memories = Memories()
    for best in (2, 0, 1):
        likelihood = np.zeros_like(memories.weight.values)
        likelihood[0, best] = 2.0
        for _ in range(10):
            memories.weigh(likelihood)
        assert memories.weight.values[0].argmax() == best
        np.testing.assert_allclose(memories.weight.values.sum(axis=1), 1.0)


def learn(estimator: AcceptanceEstimator, rejected: float, num_batches: int) -> float:
    """Batches of 8 tokens of one request; its frailty afterwards."""
    for _ in range(num_batches):
        cells = np.zeros(8, np.intp)
        seen = np.zeros(8, np.int32)
        estimator.update(np.zeros(8, np.int32), cells, np.full(8, rejected), seen, 8)
    return float(estimator.frailty(SLOT)[0])


def test_a_request_that_changes_is_followed_within_a_few_rounds() -> None:
    def make(**settings: Memories) -> AcceptanceEstimator:
        estimator = AcceptanceEstimator(np.full(1, FLAT_PRIOR), **settings)
        estimator.admit(np.arange(4, dtype=np.int32))
        return estimator

    several, one = make(), make(memories=Memories((40.0,), (1.0,)))
    for estimator in (several, one):
        learn(estimator, 1.0, 20)
    assert learn(several, 0.0, 2) < 0.6 * learn(one, 0.0, 2)
