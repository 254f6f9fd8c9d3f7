import numpy as np

from flyball.estimators.surprise import Surprise


def alarms(surprise: Surprise, tokens: np.ndarray) -> np.ndarray:
    return np.array([surprise.update(float(count)) for count in tokens])


def test_alarms_are_rare_while_nothing_changes() -> None:
    for acceptance in (0.3, 0.8):
        rng = np.random.default_rng(0)
        assert alarms(Surprise(), rng.geometric(1.0 - acceptance, 5000)).mean() < 0.06


def test_a_fall_is_noticed_within_a_few_rounds() -> None:
    rng = np.random.default_rng(1)
    surprise = Surprise()
    alarms(surprise, np.minimum(rng.geometric(0.1, 200), 17))
    assert alarms(surprise, np.ones(6)).any()


def test_a_rise_is_noticed_within_a_few_rounds() -> None:
    surprise = Surprise()
    alarms(surprise, np.ones(200))
    assert alarms(surprise, np.full(4, 2.0)).any()
