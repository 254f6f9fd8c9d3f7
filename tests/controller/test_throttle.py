"""The throttle beside a host: windows, threads, faults, and what is left behind."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from throttle_devices import DEFAULT, OTHER, SPACE, Alternates, Clock, Device, Ponders, Watts

from flyball.controller.guard import FIRST_PAUSE
from flyball.controller.latency_counts import LONGEST_S, SHORTEST_S, LatencyCounts
from flyball.controller.throttle import Throttle

Starter = Callable[..., "Run"]
STEPS = 10  # that make a window


class Run:
    """A host with steps of 0.1 s, in windows of a second."""

    def __init__(self, policy: Alternates, device: Device, wait: bool) -> None:
        self.policy, self.device, self.clock = policy, device, Clock()
        self.meter = Watts(self.clock)
        self.throttle = Throttle(
            policy, device, self.meter, window_s=1.0 - 1e-9, clock=self.clock, wait=wait
        )

    def step(self, num_steps: int = 1, **told: Any) -> None:
        for _ in range(num_steps):
            self.clock.now_s += 0.1
            self.throttle.observe(**{"num_tokens": 8, "step_s": 0.1, "batch_size": 4, **told})

    @property
    def settings(self) -> list[list[int]]:
        return [window.setting.tolist() for window in self.policy.windows]


@pytest.fixture
def start() -> Iterator[Starter]:
    runs: list[Run] = []

    def begin(
        policy: Alternates | None = None, device: Device | None = None, wait: bool = True
    ) -> Run:
        runs.append(Run(policy or Alternates(), device or Device(), wait))
        return runs[-1]

    yield begin
    for run in runs:
        if isinstance(run.policy, Ponders):
            run.policy.go.set()
        run.throttle.close()


def test_a_window_sums_up_its_steps(start: Starter) -> None:
    run = start()
    run.step(num_seen=10, num_accepted=7, num_arrived=16.0)
    slots, counts = np.array([0, 2]), np.array([3, 5])
    run.step(STEPS - 2, streams=(slots, counts), num_arrived=0.0)
    run.step(num_tokens=0, batch_size=14, num_waiting=3)
    (window,) = run.policy.windows
    assert window.setting.tolist() == DEFAULT
    assert window.window_s == pytest.approx(1.0)
    assert window.num_tokens == 72
    assert window.num_waiting == 3
    assert window.busy == pytest.approx(1.0)
    assert window.context.tokens_per_s == pytest.approx(16.0)
    assert window.context.batch_size == pytest.approx(5.0)
    assert window.context.acceptance == pytest.approx(0.7)
    # Four requests share the eight tokens of the first step; others took 0.02 and 0.033 s.
    assert window.latency_s == pytest.approx(0.05, rel=0.01)


def test_a_window_tells_how_busy_it_was(start: Starter) -> None:
    run = start()
    run.step(STEPS, step_s=0.04)
    assert run.policy.windows[0].busy == pytest.approx(0.4)
    assert run.policy.windows[0].work_per_token_s == pytest.approx(0.005)


def test_the_energy_is_what_the_meter_counted_from_end_to_end(start: Starter) -> None:
    run = start()
    run.step(3 * STEPS)
    assert [window.energy_j for window in run.policy.windows] == pytest.approx([100.0] * 3)


def test_settings_are_adopted_step_by_step_the_same_way_each_time(start: Starter) -> None:
    runs = [start() for _ in range(2)]
    for run in runs:
        run.step(5 * STEPS)
    assert runs[0].settings == runs[1].settings == [DEFAULT, OTHER, DEFAULT, OTHER, DEFAULT]
    assert runs[0].device.now == SPACE.named(np.array(OTHER))


def test_a_window_begins_once_no_more_run_than_the_limit_in_force_allows(start: Starter) -> None:
    run = start()
    run.step(STEPS)
    assert run.throttle.setting.tolist() == OTHER
    run.step(3 * STEPS, settled=False)
    assert run.throttle.num_windows == 1
    run.step(num_tokens=800)  # nobody runs any more who should not: the next step counts
    run.step(STEPS)
    first, second = run.policy.windows
    assert (first.num_tokens, second.num_tokens) == (80, 80)
    assert second.window_s == pytest.approx(1.0)
    assert second.energy_j == pytest.approx(100.0)


def test_slow_knobs_are_set_beside_decoding_and_the_others_by_it(start: Starter) -> None:
    run = start()
    run.step(4 * STEPS)
    log = run.device.log
    threads = {name: {thread for knob, thread in log if knob == name} for name in run.device.now}
    assert threads["num_threads"] == {threading.get_ident()}
    assert len(threads["clock_mhz"]) == 1
    assert threads["clock_mhz"] != threads["num_threads"]


def test_steps_go_on_while_the_policy_ponders_and_count_in_no_window(start: Starter) -> None:
    policy = Ponders()
    run = start(policy, wait=False)
    run.step(STEPS)
    assert policy.begun.wait(60)
    run.step(5 * STEPS)
    assert run.throttle.num_windows == 1
    assert run.throttle.setting.tolist() == DEFAULT
    policy.go.set()
    run.throttle.catch_up()
    assert run.throttle.setting.tolist() == OTHER
    run.step(STEPS)
    run.throttle.catch_up()
    assert [window.num_tokens for window in policy.windows] == [80, 80]


def test_a_dry_run_decides_and_learns_what_is_in_force(start: Starter) -> None:
    run = start(Alternates(np.array(OTHER)), Device(dry_run=True))
    run.step(3 * STEPS)
    assert run.settings == [DEFAULT] * 3
    assert run.throttle.wanted.tolist() == OTHER
    assert run.device.log == []


BAD_ANSWERS: dict[str, Any] = {
    "raises": RuntimeError("no idea"),
    "too many": np.array([0, 0, 0]),
    "out of range": np.array([0, 3]),
    "negative": np.array([-1, 0]),
    "floats": np.array([0.0, np.nan]),
    "nothing": None,
}


@pytest.mark.parametrize("answer", BAD_ANSWERS.values(), ids=BAD_ANSWERS)
def test_a_fault_of_the_policy_restores_pauses_and_is_logged_once(
    start: Starter, answer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    run = start(Alternates(np.array(OTHER), answer, np.array(OTHER)))
    run.step(2 * STEPS)
    assert run.throttle.faults == {"policy": 1}
    assert run.device.now == SPACE.named(SPACE.default)
    run.step(FIRST_PAUSE * STEPS)
    assert len(run.policy.windows) == 2
    assert run.device.now == SPACE.named(SPACE.default)
    run.step(STEPS)
    assert len(run.policy.windows) == 3
    assert run.device.now == SPACE.named(np.array(OTHER))
    assert caplog.text.count("policy fault, decoding goes on") == 1


@pytest.mark.parametrize("knob", ["clock_mhz", "num_threads"])
def test_a_fault_of_the_actuator_restores(start: Starter, knob: str) -> None:
    run = start()
    run.device.broken = [knob]
    run.step(5 * STEPS)
    assert run.throttle.faults["actuator"] >= 1
    assert run.device.num_restores >= 1
    assert run.device.now == SPACE.named(SPACE.default)
    assert run.throttle.setting.tolist() == DEFAULT
    run.device.broken = []
    run.step(2 * FIRST_PAUSE * STEPS)
    assert run.settings.count(OTHER) > 1


def test_a_fault_of_the_meter_restores(start: Starter) -> None:
    run = start()
    run.step(STEPS)
    run.meter.broken = True
    run.step(STEPS)
    assert run.throttle.faults == {"meter": 1}
    assert run.device.now == SPACE.named(SPACE.default)


def test_an_actuator_that_cannot_even_be_restored_stops_nothing(start: Starter) -> None:
    run = start()
    run.device.broken = ["clock_mhz", "restore"]
    run.step(3 * STEPS)
    assert run.throttle.faults == {"actuator": 1, "restore": 1}
    assert run.throttle.num_windows == 3


@pytest.mark.parametrize(
    "told",
    [
        {"step_s": math.nan},
        {"num_tokens": -1},
        {"streams": (np.array([0, 1]), np.array([3, -1]))},
        {"streams": (np.array([0, 1]), np.array([3]))},
        {"batch_size": math.inf},
        {"num_seen": "some"},
        {"num_arrived": math.nan},
    ],
    ids=lambda told: next(iter(told)),
)
def test_a_step_that_cannot_be_true_is_counted_and_left_out(
    start: Starter, told: dict[str, Any]
) -> None:
    run = start()
    run.step(**told)
    run.step(STEPS - 1)
    assert run.throttle.faults == {"step": 1}
    assert run.policy.windows[0].num_tokens == 72


def test_closing_restores_and_ends_the_worker(start: Starter) -> None:
    run = start()
    run.step(STEPS)
    assert run.device.now == SPACE.named(np.array(OTHER))
    run.throttle.close()
    assert run.device.now == SPACE.named(SPACE.default)
    run.step(3 * STEPS)
    assert len(run.policy.windows) == 1
    run.throttle.close()
    assert run.device.num_restores == 1


def test_what_the_policy_decides_after_the_end_is_not_set(
    start: Starter, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = Ponders()
    run = start(policy, wait=False)
    run.step(STEPS)
    assert policy.begun.wait(60)
    closing = threading.Thread(target=run.throttle.close)
    restored = run.device.restore

    def restore() -> None:
        restored()
        policy.go.set()

    monkeypatch.setattr(run.device, "restore", restore)
    closing.start()
    closing.join(60)
    assert not closing.is_alive()
    assert run.device.log == []
    assert run.device.now == SPACE.named(SPACE.default)


@pytest.mark.parametrize("share", [0.01, 0.5, 0.9, 0.99, 1.0])
def test_quantiles_are_at_most_a_hundredth_above_the_true_ones(share: float) -> None:
    latencies = np.random.default_rng(0).lognormal(-3.0, 1.0, 10_000)
    counts = LatencyCounts()
    for part in np.split(latencies, 10):
        counts.add(part)
    true = np.quantile(latencies, share, method="inverted_cdf")
    assert true <= counts.quantile(share) * (1 + 1e-9)
    assert counts.quantile(share) <= 1.0101 * true


def test_latencies_beyond_the_ends_count_at_the_ends() -> None:
    counts = LatencyCounts()
    counts.add(np.array([0.0, 1e9]))
    assert counts.quantile(0.5) == pytest.approx(SHORTEST_S)
    assert counts.quantile(1.0) == pytest.approx(LONGEST_S, rel=0.01)


def test_no_latencies_have_no_quantile() -> None:
    assert math.isnan(LatencyCounts().quantile(0.99))
