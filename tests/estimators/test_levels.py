import numpy as np

from flyball.estimators.levels import Levels

PRIOR = np.array([1.0, 2.0, 1.0])
SLOTS = np.arange(2, dtype=np.int32)


def evidence(level: int, strength: float = 1.0) -> np.ndarray:
    """Likelihood (slots, levels) for the first request alone."""
    found = np.zeros((16, 3))
    found[0, level] = strength
    return found


def test_a_request_settles_and_leaves_within_a_few_rounds() -> None:
    levels = Levels(PRIOR)
    levels.admit(SLOTS)
    for level in (0, 2, 1):
        for _ in range(40):
            levels.update(evidence(level), SLOTS[:1])
        assert levels.weight.values[0, level] > 0.97
    for _ in range(3):  # 3 nats a round against one jump in a hundred rounds
        levels.update(evidence(0, 3.0), SLOTS[:1])
    assert levels.weight.values[0, 0] > 0.9


def test_who_is_not_seen_stays_where_it_was() -> None:
    levels = Levels(PRIOR)
    levels.admit(SLOTS)
    levels.update(evidence(0), SLOTS[:1])
    np.testing.assert_allclose(levels.weight.values[1], PRIOR / 4.0)


def test_new_requests_start_from_what_is_usual() -> None:
    levels = Levels(PRIOR)
    levels.admit(SLOTS)
    for _ in range(4000):
        levels.update(evidence(2), SLOTS[:1])
    levels.admit(SLOTS[1:])
    assert 0.6 < levels.weight.values[1, 2] < 0.9
    np.testing.assert_allclose(levels.weight.values.sum(axis=1), 1.0)
