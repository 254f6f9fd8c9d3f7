"""What goes wrong inside costs a vLLM engine nothing: no request, no token, no memory."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from vllm_fake_engine import FakeEngine
from vllm_load import put_under_load

from flyball.controller import guard
from flyball.controller.contract import Cost, Plan
from flyball.controller.governor import Governor
from flyball.estimators.drafts import SteppingDraft
from flyball.estimators.step_cost import StepCostEstimator
from flyball.integrations.vllm.flight_log import FlightLog
from flyball.integrations.vllm.flights import Flight
from flyball.integrations.vllm.hold import hold_steps
from flyball.integrations.vllm.ledger import Ledger
from flyball.integrations.vllm.metrics import Publisher
from flyball.integrations.vllm.navigator import Navigator
from flyball.integrations.vllm.step_costs import StepCosts
from flyball.policies.length.goodput import Goodput

LONGEST_HOLD = hold_steps(1000)

Maker = Callable[..., FakeEngine]

NOBODY = "nobody"  # a name that no request has
ERRORS = (ValueError, KeyError, IndexError, ZeroDivisionError, AttributeError, MemoryError)
WHERE: list[tuple[type, str]] = [
    (Governor, "plan"),
    (Governor, "admit"),
    (Governor, "observe_many"),
    (Ledger, "admit"),
    (Ledger, "slots"),
    (Ledger, "settle"),
    (StepCosts, "cost"),
    (Flight, "told"),
    (Flight, "decoding"),
    (Navigator, "_steps_in_room"),
    (FlightLog, "land"),
    (Publisher, "publish"),
    (Goodput, "decide"),
    (Goodput, "learn"),
    (SteppingDraft, "note"),
    (StepCostEstimator, "update"),
]


def some_lengths(*values: float) -> Plan:
    return Plan(3, np.array(values), np.zeros(len(values), np.int32))


NONSENSE: dict[tuple[type, str], list[Any]] = {
    (Governor, "plan"): [
        None,
        some_lengths(np.nan, np.nan),
        some_lengths(9e9),
        Plan(3, np.full(3, 10**6, np.int32), np.zeros(3, np.int32)),
        Plan(-7, np.full(2, -3, np.int32), np.zeros(2, np.int32)),
        Plan(3, np.zeros(0, np.int32), np.zeros(0, np.int32)),
        Plan(3, np.zeros((2, 2), np.int32), np.zeros(2, np.int32)),
    ],
    (Goodput, "decide"): [
        None,
        np.nan,
        "many",
        np.full(4, np.nan),
        np.full(3, -1, np.int32),
        np.full(2, 10**9, np.int64),
        np.zeros((3, 3), np.int32),
    ],
    (Flight, "told"): [{NOBODY: (np.nan, 1)}, {NOBODY: (-5, 10**9)}, {NOBODY: ()}, {}, "rows"],
    (StepCosts, "cost"): [
        "dear",
        Cost(1, np.nan, 1, 1, 0),
        Cost(1, -1.0, 0, -4, 10**9),
        Cost(1, 1e300, 2**40, 3, 5),
    ],
    (Navigator, "_steps_in_room"): [np.nan, np.inf, -(10**9), None, 2.5],
    (Ledger, "slots"): [np.full(2, 10**6, np.int32), np.full(1, -1, np.int32), None],
}


class Saboteur:
    """Spoils methods at random, once it is let loose.

    Attributes:
        rate: probability of a call.
        num_faults: how often it struck.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
        self.rate, self.num_faults = 0.0, 0
        self._monkeypatch, self._rng = monkeypatch, np.random.default_rng(seed)

    def spoil(self, owner: type, name: str, answers: list[Any] | None = None) -> None:
        """Let a method raise, or give one of these answers."""
        whole = getattr(owner, name)

        def spoilt(*args: Any, **kwargs: Any) -> Any:
            if self._rng.random() >= self.rate:
                return whole(*args, **kwargs)
            self.num_faults += 1
            if answers is None:
                raise ERRORS[self._rng.integers(len(ERRORS))]("sabotage")
            return answers[self._rng.integers(len(answers))]

        self._monkeypatch.setattr(owner, name, spoilt)


@pytest.fixture
def saboteur(monkeypatch: pytest.MonkeyPatch) -> Iterator[Saboteur]:
    # Pauses of a step or two, so that there is much to be spoilt.
    monkeypatch.setattr(guard, "FIRST_PAUSE", 2)
    monkeypatch.setattr(guard, "LONGEST_PAUSE", 2)
    monkeypatch.setattr(Goodput, "learns", True)
    yield Saboteur(monkeypatch, seed=1)


def check_harmless(
    engine: FakeEngine, saboteur: Saboteur, delay: int, num_requests: int = 60
) -> None:
    """No answer and no count is changed, and nothing is kept."""
    pilot, most = engine.pilot, 0
    engine.books.faulty = True

    def look() -> None:
        nonlocal most
        log = pilot._log
        kept = (log.flying, log.landed, log.ledger._gone, log.ledger._slots)
        most = max(most, *map(len, kept))

    grammar = 0.2 if delay < 2 else 0.0
    put_under_load(
        engine, 1, num_requests=num_requests, aborts=0.1, grammar=grammar, after_step=look
    )
    engine.check_texts()
    engine.books.check_counts()
    assert engine.books.num_preempted > 10
    assert most <= 3 * LONGEST_HOLD
    assert pilot.governor._pool.num_slots <= 3 * LONGEST_HOLD
    saboteur.rate = 0.0
    pilot.free(NOBODY)  # no engine frees whom the sabotage made up
    engine.add("last", [1, 2, 3], 20)
    engine.run()
    assert not pilot._log.flying and not pilot._log.landed
    assert len(pilot.governor._pool.taken) == 0


@pytest.mark.parametrize("delay", [0, 1, 2])
def test_exceptions_cost_no_token(make_engine: Maker, saboteur: Saboteur, delay: int) -> None:
    for owner, name in WHERE:
        saboteur.spoil(owner, name)
    engine = make_engine("goodput", delay=delay, num_blocks=32, max_step_tokens=24)
    saboteur.rate = 0.05
    check_harmless(engine, saboteur, delay, num_requests=400)
    engine.books.check_told()
    assert saboteur.num_faults > 200
    assert sum(engine.pilot.fallbacks.values()) == saboteur.num_faults


@pytest.mark.parametrize("owner, name", WHERE, ids=lambda part: getattr(part, "__name__", part))
@pytest.mark.parametrize("delay", [0, 1])
def test_what_fails_every_time_costs_no_token(
    make_engine: Maker, saboteur: Saboteur, delay: int, owner: type, name: str
) -> None:
    saboteur.spoil(owner, name)
    engine = make_engine("goodput", delay=delay, num_blocks=32, max_step_tokens=24)
    saboteur.rate = 1.0
    check_harmless(engine, saboteur, delay)
    engine.books.check_told()
    assert sum(engine.pilot.fallbacks.values()) == saboteur.num_faults > 0


@pytest.mark.parametrize("delay", [0, 1, 2])
def test_nonsense_costs_no_token(make_engine: Maker, saboteur: Saboteur, delay: int) -> None:
    for (owner, name), answers in NONSENSE.items():
        saboteur.spoil(owner, name, answers)
    engine = make_engine("goodput", delay=delay, num_blocks=32, max_step_tokens=24)
    saboteur.rate = 0.1
    check_harmless(engine, saboteur, delay, num_requests=400)
    assert saboteur.num_faults > 200
    assert sum(engine.pilot.fallbacks.values()) > saboteur.num_faults / 2


@pytest.mark.parametrize("delay", [0, 1, 2])
def test_after_a_fault_the_engine_goes_on_alone_and_is_governed_again(
    make_engine: Maker, monkeypatch: pytest.MonkeyPatch, delay: int
) -> None:
    engine = make_engine({"policy": "static", "draft_len": 1}, delay=delay)
    pilot, modes, log = engine.pilot, [], engine.pilot._log
    for name in "abc":
        engine.add(name, [5, 6, ord(name)], 80, eos=None)
    while len(modes) < guard.FIRST_PAUSE + 10:
        if len(modes) == 5:
            with monkeypatch.context() as patch:
                patch.setattr(Governor, "plan", None)
                pilot._navigator.hold.steps_left = 0
                engine.step()
        else:
            engine.step()
        modes.append(pilot.mode)
        if pilot.mode == "observing":
            engine.add(f"guest{len(modes)}", [9, len(modes)], 2)  # comes and goes meanwhile
            assert not log.flying and not log.landed
            assert not log.ledger._gone and not log.ledger._slots
            assert len(pilot.governor._pool.taken) == 0
    assert modes == ["governing"] * 5 + ["observing"] * 17 + ["governing"] * 4
    engine.books.faulty = True
    engine.abort("abc")
    engine.run()
    engine.check_texts()
    engine.books.check_counts()
    assert pilot.fallbacks == {"host": 1}
    assert len(pilot.governor._pool.taken) == 0


@pytest.mark.parametrize("delay", [0, 1])
def test_an_engine_that_is_only_observed_leaves_nothing_behind(
    make_engine: Maker, delay: int
) -> None:
    engine = make_engine(delay=delay, table=None, num_blocks=32, max_step_tokens=24)
    pilot, log = engine.pilot, engine.pilot._log

    def look() -> None:
        assert not log.flying and not log.landed and not pilot._counts
        assert not log.ledger._gone and not log.ledger._slots

    put_under_load(engine, 4, num_requests=150, aborts=0.1, after_step=look)
    engine.check()


@pytest.mark.parametrize("owner, name", [(FlightLog, "hand_in"), (Publisher, "publish")])
def test_a_shutdown_that_fails_in_part_is_one_all_the_same(
    make_engine: Maker, monkeypatch: pytest.MonkeyPatch, owner: type, name: str
) -> None:
    engine, closed = make_engine(delay=1), []
    engine.add("a", [5, 6, 7], 60)
    for _ in range(8):
        engine.step()
    monkeypatch.setattr(engine.pilot.governor, "close", lambda: closed.append(True))
    monkeypatch.setattr(owner, name, None)
    engine.scheduler.shutdown()
    assert engine.pilot.fallbacks == {"host": 1}
    assert closed
