import numpy as np

from flyball.estimators.hedge import FixedShare


def test_the_best_expert_is_followed_after_every_change() -> None:
    hedge = FixedShare(np.ones(4), rate=0.1, share=0.002)
    for best in (2, 0, 3):
        loss = np.full(4, 0.1)
        loss[best] = 0.0
        for _ in range(20):
            hedge.update(loss, 50.0)
        assert hedge.weight.argmax() == best
        assert hedge.weight[best] > 0.6


def test_experts_that_sleep_keep_their_weight_but_for_what_is_shared() -> None:
    hedge = FixedShare(np.array([1.0, 1.0, 2.0]), rate=1.0, share=0.0)
    hedge.update(np.array([0.0, 1.0, np.nan]), 3.0)
    assert np.isclose(hedge.weight[2], 0.5)
    assert np.isclose(hedge.weight.sum(), 1.0)
    assert hedge.weight[0] > 10 * hedge.weight[1]


def test_nothing_known_changes_nothing() -> None:
    hedge = FixedShare(np.ones(2), rate=1.0, share=0.1)
    hedge.update(np.full(2, np.nan), 5.0)
    assert hedge.weight.tolist() == [0.5, 0.5]
