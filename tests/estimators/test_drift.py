"""The drift detector next to river's ADWIN, which takes one observation at a time."""

from collections.abc import Iterator

import numpy as np
import pytest
from river.drift import ADWIN

from flyball.estimators.drift import DriftDetector

BATCH = 16  # observations of a call


def feed(values: np.ndarray, detector: DriftDetector) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Streams cut and observations kept, call by call; values are (streams, t)."""
    streams = np.arange(len(values)).repeat(BATCH)
    for start in range(0, values.shape[1], BATCH):
        cut = detector.update(values[:, start : start + BATCH].ravel(), streams)
        yield cut.streams, cut.num_kept


def first_alarms(values: np.ndarray, delta: float = 0.002) -> np.ndarray:
    """Observations (streams,) until each stream was first cut; infinite where it never was."""
    found = np.full(len(values), np.inf)
    for number, (streams, _) in enumerate(feed(values, DriftDetector(delta, len(values)))):
        found[streams] = np.minimum(found[streams], BATCH * (number + 1.0))
    return found


def first_alarms_of_river(values: np.ndarray) -> np.ndarray:
    found = np.full(len(values), np.inf)
    for number, stream in enumerate(values):
        oracle = ADWIN(delta=0.002)
        for place, value in enumerate(stream.tolist()):
            oracle.update(value)
            if oracle.drift_detected:
                found[number] = place + 1.0
                break
    return found


def bernoulli(seed: int, truth: np.ndarray, num_streams: int) -> np.ndarray:
    return (np.random.default_rng(seed).random((num_streams, len(truth))) < truth).astype(float)


@pytest.mark.parametrize("delta", [0.002, 0.05, 0.3])
@pytest.mark.parametrize("truth", [0.02, 0.5, 0.9])
def test_streams_that_do_not_change_are_cut_no_oftener_than_stated(
    truth: float, delta: float
) -> None:
    values = bernoulli(1, np.full(300 * BATCH, truth), 300)
    detector = DriftDetector(delta, len(values))
    num_alarms = sum(len(streams) for streams, _ in feed(values, detector))
    assert num_alarms <= delta * 300 * 300
    if delta == 0.002:
        assert (detector.num_observed > 100 * BATCH).mean() > 0.95


@pytest.mark.parametrize(("before", "after"), [(0.8, 0.5), (0.5, 0.9), (0.9, 0.4), (0.2, 0.8)])
def test_a_switch_is_found_about_as_soon_as_river_finds_it(before: float, after: float) -> None:
    start = 640
    values = bernoulli(2, np.repeat([before, after], [start, 640]), 60)
    ours, oracle = first_alarms(values) - start, first_alarms_of_river(values) - start
    assert np.isfinite(ours).all()
    assert (ours > 0).mean() > 0.95
    assert np.median(ours[ours > 0]) <= 1.5 * np.median(oracle[oracle > 0])


def test_what_is_kept_came_after_the_switch() -> None:
    start = 1024
    values = bernoulli(3, np.repeat([0.9, 0.4], [start, 256]), 200)
    detector = DriftDetector(num_streams=200)
    for number, (streams, kept) in enumerate(feed(values, detector)):
        since = BATCH * (number + 1) - start
        if since > 0 and len(streams):
            assert np.median(kept / since) <= 1.5
    assert (detector.num_observed <= 1.5 * 256).mean() > 0.9
    assert abs(np.median(detector.mean) - 0.4) < 0.05


@pytest.mark.parametrize("length", [1500, 5900])
def test_gradual_drift_is_found(length: int) -> None:
    truth = np.concatenate([np.full(500, 0.9), np.linspace(0.9, 0.3, length)])
    values = bernoulli(4, truth, 50)
    ours, oracle = first_alarms(values), first_alarms_of_river(values)
    assert np.isfinite(ours).all()
    assert np.median(ours) <= 1.5 * np.median(oracle)


def test_a_few_observations_are_never_enough() -> None:
    rng = np.random.default_rng(5)
    detector = DriftDetector(num_streams=2000)
    for value in (1.0, 0.0):  # the worst that can be: all of them, then none
        streams = np.arange(2000).repeat(rng.integers(0, 10, 2000))
        assert len(detector.update(np.full(len(streams), value), streams).streams) == 0


def test_residuals_vary_less_than_outcomes_and_are_found_sooner() -> None:
    rng = np.random.default_rng(6)
    noise = rng.uniform(-0.2, 0.2, (50, 1280))
    shift = np.repeat([0.45, 0.55], 640)
    outcomes = (rng.random((50, 1280)) < shift).astype(float)
    assert np.isfinite(first_alarms(shift + noise)).all()
    assert np.isfinite(first_alarms(outcomes)).mean() < 0.3


def test_streams_do_not_mind_each_other_and_start_anew_after_a_reset() -> None:
    values = bernoulli(7, np.repeat([0.9, 0.2], [320, 320]), 5)
    together, alone = DriftDetector(num_streams=5), DriftDetector()
    several = list(feed(values, together))
    for (streams, kept), (streams_alone, kept_alone) in zip(
        several, feed(values[2:3], alone), strict=True
    ):
        assert (2 in streams) == (0 in streams_alone)
        assert kept[streams == 2].tolist() == kept_alone.tolist()
    together.reset(np.array([2, 9]))
    assert together.num_observed[[2, 9]].tolist() == [0.0, 0.0]
    assert together.num_observed[[0, 1, 3]].all()
    assert together.num_observed.shape == (10,)


def test_a_stream_without_news_is_left_alone_and_memory_stays() -> None:
    detector = DriftDetector(num_streams=2)
    detector.update(np.ones(200), np.repeat([0, 1], 100))
    size = detector._buckets.nbytes
    for _ in range(300):
        detector.update(np.ones(8), np.zeros(8, int))
    assert detector.num_observed[1] == 100.0
    for _ in range(3000):
        detector.update(np.ones(8), np.zeros(8, int))
    assert 8.0 * 760 <= detector.num_observed[0] <= 8.0 * 1020
    assert detector.num_observed[1] == 0.0
    assert detector._buckets.nbytes == size


def test_one_stream_needs_no_names() -> None:
    values = bernoulli(8, np.repeat([0.9, 0.2], [320, 320]), 1)
    detector = DriftDetector()
    named = [kept.tolist() for _, kept in feed(values, DriftDetector())]
    batches = values.reshape(-1, BATCH)
    assert [detector.update(batch).num_kept.tolist() for batch in batches] == named


def test_nothing_observed_is_no_drift() -> None:
    detector = DriftDetector(num_streams=3)
    nothing = np.zeros(0)
    assert len(detector.update(nothing, nothing.astype(int)).streams) == 0
    assert detector.mean.tolist() == [0.0] * 3
