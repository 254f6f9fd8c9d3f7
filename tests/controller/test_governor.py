from typing import Any

import numpy as np
import pytest
from policy_sections import length_section

from flyball.controller.governor import Cost, Governor, HostInfo, Outcomes, Plan
from flyball.controller.policy_file import load_policy
from flyball.policies.registry import LENGTH_POLICIES

VERIFY_S, DRAFT_S = 3.5e-3, 0.5e-3


def make(name: str = "goodput", **host: Any) -> Governor:
    return Governor(
        load_policy({"version": 1, "length": length_section(name)}),
        HostInfo("test", **host),
        clock=lambda: 0.0,  # time here is simulated
    )


class Simulation:
    """A host whose requests accept with a known probability, and whose steps have known costs."""

    def __init__(
        self, governor: Governor, acceptance: list[float], seed: int = 0, cold: float = 1.0
    ) -> None:
        self.governor = governor
        self.slowdown = cold  # of the first round
        self.acceptance = np.array(acceptance)
        self.rng = np.random.default_rng(seed)
        self.slots = governor.admit(len(acceptance))
        self.unread = np.zeros(len(acceptance), int)
        self.tokens, self.seconds = 0, 0.0

    def stopped(self, plan: Plan) -> np.ndarray:
        """Draft lengths after the governor was asked in mid-draft, confidence telling nothing."""
        k = plan.draft_len.astype(int)
        if not self.governor.wants_confidence:
            return k
        for position in range(1, int(k.max(initial=0))):
            rows = np.flatnonzero(k > position)
            if len(rows) == 0:
                break
            confidence = np.full(len(rows), 0.9)
            k[rows[self.governor.stop(plan.step_id, rows, position, confidence)]] = position
        return k

    def round(self) -> np.ndarray:
        plan = self.governor.plan(self.slots)
        k = self.stopped(plan)
        hit = self.rng.random((len(k), 64)) < self.acceptance[:, None]
        accepted = np.minimum(hit.cumprod(axis=1).sum(axis=1), k)
        observed = np.minimum(accepted + 1, k)
        draft_s, verify_s = DRAFT_S * k.max(), VERIFY_S * (1 + 0.02 * k.max())
        draft_s, verify_s, self.slowdown = self.slowdown * draft_s, self.slowdown * verify_s, 1.0
        self.tokens += int((accepted + 1).sum())
        self.seconds += draft_s + verify_s
        ints = [x.astype(np.int32) for x in (k, accepted, observed)]
        self.governor.observe(
            Outcomes(plan.step_id, self.slots, *ints, np.full((len(k), 64), 0.9)),
            Cost(
                plan.step_id, draft_s + verify_s, len(k), k.max() + 1, k.max(), draft_s, verify_s
            ),
        )
        self._read(k, accepted)
        return k

    def _read(self, k: np.ndarray, accepted: np.ndarray) -> None:
        self.unread = np.where(k > 0, 0, self.unread + 1)
        if (self.unread >= 32).any():
            match = (self.rng.random((len(k), 31)) < self.acceptance[:, None]).astype(float)
            self.governor.read(self.slots, match)
            self.unread[:] = 0


def best_static_rate(acceptance: float, limit: int = 8) -> float:
    k = np.arange(limit + 1)
    tokens = np.array([sum(acceptance**j for j in range(n + 1)) for n in k])
    return float((tokens / (VERIFY_S * (1 + 0.02 * k) + DRAFT_S * k)).max())


@pytest.mark.parametrize("cold", [1.0, 30.0])
@pytest.mark.parametrize("mid_draft_stop", [False, True])
@pytest.mark.parametrize("acceptance", [0.1, 0.3, 0.5, 0.7, 0.9, 0.97])
def test_goodput_comes_close_to_the_best_constant_length(
    acceptance: float, mid_draft_stop: bool, cold: float
) -> None:
    simulation = Simulation(make(mid_draft_stop=mid_draft_stop), [acceptance], cold=cold)
    for _ in range(100):
        simulation.round()
    simulation.tokens, simulation.seconds = 0, 0.0
    for _ in range(4000):
        simulation.round()
    assert simulation.tokens / simulation.seconds > 0.97 * best_static_rate(acceptance)


def test_speculation_is_switched_off_and_comes_back() -> None:
    simulation = Simulation(make(mid_draft_stop=False), [0.02])
    for _ in range(300):
        simulation.round()
    assert not any(simulation.round().any() for _ in range(20))
    simulation.acceptance[:] = 0.95
    simulation.tokens = 0
    while not simulation.round().any():
        assert simulation.tokens < 200


def test_an_easy_and_a_hard_request_get_different_lengths_where_the_host_allows_it() -> None:
    simulation = Simulation(make("heuristic"), [0.98, 0.1])
    lengths = np.array([simulation.round() for _ in range(200)])
    assert lengths[50:, 0].mean() > lengths[50:, 1].mean() + 3


def test_lengths_are_equal_where_the_host_needs_that() -> None:
    simulation = Simulation(make("heuristic", ragged_ok=False), [0.98, 0.1, 0.5])
    assert all(len(set(simulation.round().tolist())) == 1 for _ in range(50))


def test_a_token_costs_what_another_row_adds_to_the_round() -> None:
    """Rounds of T(b) = 2 + b ms: half a batch more of 8 adds 4 of 10 ms, each row 0.8 tokens."""
    governor = make("static")
    assert governor.contests.load(8, False).token_price == 1.0  # nobody knows yet
    for size in (4, 8) * 40:
        slots = governor.admit(size)
        plan = governor.plan(slots)
        cost = Cost(plan.step_id, 2e-3 + 1e-3 * size, size, 1, 0, 0.0, 2e-3 + 1e-3 * size)
        none = np.zeros(size, np.int32)
        governor.observe(Outcomes(plan.step_id, slots, none, none, none), cost)
        governor.release(slots)
    assert governor.contests.load(8, False).token_price == pytest.approx(0.8, abs=0.01)
    assert governor.contests.load(1, False).token_price == 1.0
    assert governor.faults == {}


def test_late_feedback_for_a_released_slot_is_ignored() -> None:
    governor = make("heuristic")
    slots = governor.admit(1)
    plan = governor.plan(slots)
    governor.release(slots)
    again = governor.admit(1)
    assert again.tolist() == slots.tolist()
    k = plan.draft_len
    governor.observe(Outcomes(plan.step_id, slots, k, np.zeros_like(k), np.ones_like(k)))
    assert governor.plan(again).draft_len.tolist() == k.tolist()


def test_slots_are_reused_and_released_once() -> None:
    governor = make()
    slots = governor.admit(5)
    governor.release(slots[:2])
    governor.release(slots[:2])
    assert sorted(governor.admit(3).tolist()) == [0, 1, 5]


def test_a_slot_released_twice_at_once_goes_to_one_request_and_unknown_ones_to_none() -> None:
    governor = make()
    slots = governor.admit(16)
    governor.release(np.array([2, 2, -1, 99, 2], np.int32))
    assert governor.admit(3).tolist() == [2, 16, 17]
    governor.release(slots)
    assert sorted(governor.admit(16).tolist()) == slots.tolist()


def test_memory_does_not_grow_with_history() -> None:
    governor = make()
    for _ in range(300):
        simulation = Simulation(governor, [0.7, 0.7])
        simulation.round()
        governor.release(simulation.slots)
    assert governor._pool.num_slots == 2


@pytest.mark.parametrize("name", LENGTH_POLICIES)
def test_same_feedback_same_decisions(name: str) -> None:
    def decisions() -> list[list[int]]:
        simulation = Simulation(make(name, mid_draft_stop=False), [0.9, 0.5, 0.2])
        return [simulation.round().tolist() for _ in range(100)]

    assert decisions() == decisions()


def test_stop_ends_unsure_drafts_and_lets_sure_ones_go_on() -> None:
    governor = make()
    simulation = Simulation(governor, [0.8])
    for _ in range(30):
        simulation.round()
    one = np.ones(1, np.int32)
    for number in range(200):  # sure tokens are accepted, unsure ones are not
        plan = governor.plan(simulation.slots)
        sure = number % 2
        confidence = np.full((1, 3), 0.99 if sure else 0.2)
        outcomes = Outcomes(
            plan.step_id,
            simulation.slots,
            3 * one,
            3 * sure * one,
            (1 + 2 * sure) * one,
            confidence,
        )
        governor.observe(outcomes)
    row = np.zeros(1, np.intp)
    plan = governor.plan(simulation.slots)
    assert not governor.stop(plan.step_id, row, 1, np.array([0.99]))[0]
    plan = governor.plan(simulation.slots)
    assert governor.stop(plan.step_id, row, 1, np.array([0.2]))[0]


def test_a_stop_for_a_step_that_is_not_the_present_one_ends_the_draft() -> None:
    governor = make()
    plan = governor.plan(governor.admit(1))
    assert governor.stop(plan.step_id - 1, np.zeros(1, np.intp), 1, np.array([0.9]))[0]
