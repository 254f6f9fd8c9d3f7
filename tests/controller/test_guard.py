"""Whatever goes wrong inside, the host decodes on, and a healthy policy governs again."""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from flyball.controller.errors import HostError
from flyball.controller.governor import Cost, DraftInfo, Governor, HostInfo, Offer, Outcomes
from flyball.controller.guard import FIRST_PAUSE, Guard, check_lengths
from flyball.controller.policy_file import PolicyFile
from flyball.policies.length.base import LengthPolicy, Progress, RoundResult, View
from flyball.policies.length.goodput import Goodput, GoodputSettings

SLOTS = 3
LIMIT = 8


def boom(*_: Any) -> Any:
    raise RuntimeError("injected")


BAD_LENGTHS: dict[str, Callable[[View], Any]] = {
    "raises": boom,
    "nothing": lambda view: None,
    "list": lambda view: [1] * len(view.slots),
    "short list": lambda view: [1],
    "too short": lambda view: np.ones(len(view.slots) - 1, np.int32),
    "too long": lambda view: np.ones(len(view.slots) + 1, np.int32),
    "wrong shape": lambda view: np.ones((len(view.slots), 1), np.int32),
    "negative": lambda view: np.full(len(view.slots), -1, np.int32),
    "beyond": lambda view: np.full(len(view.slots), LIMIT + 1, np.int32),
    "huge": lambda view: np.full(len(view.slots), 2**31 - 1, np.int32),
    "float": lambda view: np.ones(len(view.slots)),
    "nan": lambda view: np.full(len(view.slots), np.nan),
    "object": lambda view: np.array([None] * len(view.slots)),
}
BAD_STOPS: dict[str, Callable[[Progress], Any]] = {
    "raises": boom,
    "nothing": lambda progress: None,
    "short": lambda progress: np.zeros(0, np.bool_),
    "long": lambda progress: np.zeros(len(progress.rows) + 1, np.bool_),
    "floats": lambda progress: np.full(len(progress.rows), np.nan),
    "list": lambda progress: [False] * len(progress.rows),
}
FAULTS: list[tuple[str, Callable[..., Any]]] = [
    *(("decide", bad) for bad in BAD_LENGTHS.values()),
    *(("stop", bad) for bad in BAD_STOPS.values()),
    ("learn", boom),
    ("admit", boom),
]


class Flaky(Goodput):
    """Goodput, with faults switched on from outside; every bench makes a new one of them."""

    learns = True
    faults: dict[str, Callable[..., Any]] = {}
    num_injected = 0

    def _or_fault(self, name: str, healthy: Callable[..., Any], argument: Any) -> Any:
        if name not in self.faults:
            return healthy(argument)
        Flaky.num_injected += 1
        return self.faults[name](argument)

    def admit(self, slots: Any) -> None:
        self._or_fault("admit", super().admit, slots)

    def decide(self, view: View) -> Any:
        return self._or_fault("decide", super().decide, view)

    def stop(self, progress: Progress) -> Any:
        return self._or_fault("stop", super().stop, progress)

    def learn(self, result: RoundResult) -> None:
        self._or_fault("learn", super().learn, result)


class FlakyFile(PolicyFile):
    def make_length_policy(self) -> LengthPolicy:
        return Flaky(GoodputSettings(max_draft_len=LIMIT))


@pytest.fixture(autouse=True)
def _no_faults() -> None:
    Flaky.faults = {}
    Flaky.num_injected = 0


class Host:
    """Three requests that accept nine tokens of ten; everything it is told must make sense."""

    def __init__(self) -> None:
        length = GoodputSettings(max_draft_len=LIMIT)
        # A clock of its own: on a busy machine a decision may really overrun its step.
        ticks = itertools.count()
        self.governor = Governor(
            FlakyFile(version=1, length=length), HostInfo("test"), lambda: 1e-6 * next(ticks)
        )
        self.slots = self.governor.admit(SLOTS)
        self.rng = np.random.default_rng(0)
        self.step_s = 1.0

    def round(self, **changes: Any) -> np.ndarray:
        plan = self.governor.plan(self.slots)
        k = plan.draft_len.copy()
        assert plan.draft_len.dtype == np.int32
        assert plan.draft_len.shape == (SLOTS,)
        assert ((k >= 0) & (k <= LIMIT)).all()
        for position in range(1, int(k.max(initial=0))):
            rows = np.flatnonzero(k > position)
            if len(rows) == 0:
                break
            ends = self.governor.stop(plan.step_id, rows, position, np.full(len(rows), 0.9))
            assert ends.dtype == np.bool_
            assert ends.shape == rows.shape
            k[rows[ends]] = position
        hit = self.rng.random((SLOTS, LIMIT)) < 0.9
        accepted = np.minimum(hit.cumprod(axis=1).sum(axis=1), k).astype(np.int32)
        observed = np.minimum(accepted + 1, k).astype(np.int32)
        longest = int(k.max())
        draft_s, verify_s = 2e-4 * longest, 3.5e-3
        outcome: dict[str, Any] = {"proposed": k, "accepted": accepted, "observed": observed}
        outcome |= {"slots": self.slots, "confidence": np.full((SLOTS, LIMIT), 0.9)}
        outcome |= {"draft": None, "exhausted": None}
        cost: dict[str, Any] = {"step_s": draft_s + verify_s, "draft_s": draft_s}
        cost |= {"verify_s": verify_s, "verify_len": longest + 1}
        cost |= {"batch_size": SLOTS, "num_draft_steps": longest}
        outcome |= {key: value for key, value in changes.items() if key in outcome}
        cost |= {key: value for key, value in changes.items() if key in cost}
        self.governor.observe(Outcomes(plan.step_id, **outcome), Cost(plan.step_id, **cost))
        return k

    def rounds(self, number: int) -> np.ndarray:
        return np.array([self.round() for _ in range(number)])

    def governs(self) -> bool:
        """Whether a healthy policy drafts, as pays here, once its bench is over."""
        Flaky.faults = {}
        while self.governor._guard.benched(self.governor.num_steps + 1):
            self.round()
        self.rounds(30)
        return bool(self.rounds(20).mean() > 2.0)


@pytest.mark.parametrize(("method", "bad"), FAULTS)
def test_a_bad_policy_is_benched_counted_and_tried_again(
    method: str, bad: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    host = Host()
    host.rounds(20)
    Flaky.faults = {method: bad}
    for _ in range(400):
        host.round()
        if method == "admit":
            host.governor.release(host.slots)
            host.slots = host.governor.admit(SLOTS)
    assert Flaky.num_injected >= 4
    assert sum(host.governor.faults.values()) == Flaky.num_injected
    assert len(caplog.records) == len(host.governor.faults)
    assert host.governs()


def test_five_hundred_faults_in_a_row_of_all_kinds_cost_only_the_gain() -> None:
    host = Host()
    rng = np.random.default_rng(1)
    while Flaky.num_injected < 500:
        method, bad = FAULTS[rng.integers(len(FAULTS))]
        Flaky.faults = {method: bad}
        host.governor._guard._until = 0  # tried again at once
        host.rounds(2)
        host.governor.release(host.slots)
        host.slots = host.governor.admit(SLOTS)
    assert {"decide", "stop", "learn", "admit"} <= set(host.governor.faults)
    assert host.governs()


def parts(governor: Governor) -> dict[str, Any]:
    """The learned arrays and numbers that a fault may spoil."""
    beliefs = governor._beliefs
    draft, cost = beliefs._drafts.drafts[0], beliefs._costs.estimator
    curve = next(iter(cost._buckets.values())).verify
    return {"draft": draft, "curve": curve, "cost": cost, "price": beliefs._correction}


def spoil(part: Any, path: str, bad: float) -> None:
    """Set an array, a list or a number of an estimator to `bad`."""
    *owners, name = path.split(".")
    for owner in owners:
        part = getattr(part, owner)
    value = getattr(part, name)
    if isinstance(value, float):
        setattr(part, name, bad)
    else:
        value[:] = bad if isinstance(value, np.ndarray) else [bad] * len(value)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    ("part", "path"),
    [
        ("draft", "_by_position.hazard"),
        ("draft", "_this_token.theta"),
        ("draft", "_next_token._levels.weight.values"),
        ("draft", "_by_position._rejections"),
        ("draft", "_by_position._levels.weight.values"),
        ("curve", "_values"),
        ("curve", "_drift"),
        ("price", "_realised"),
    ],
)
def test_spoilt_estimates_do_not_survive(part: str, path: str, bad: float) -> None:
    host = Host()
    host.rounds(40)
    spoil(parts(host.governor)[part], path, bad)
    with np.errstate(all="ignore"):
        host.rounds(60)
    assert host.governs()
    after = parts(host.governor)
    assert after["draft"].healthy
    assert after["price"].healthy
    assert np.isfinite(host.governor._beliefs._costs.estimator.round_s(SLOTS)).all()


@pytest.mark.parametrize(
    ("part", "method"),
    [
        ("draft", "note"),
        ("draft", "learn"),
        ("draft", "survival"),
        ("draft", "read"),
        ("cost", "update"),
        ("cost", "round_s"),
        ("cost", "next_probe"),
        ("price", "update"),
    ],
)
def test_an_estimator_that_raises_is_made_anew(
    part: str, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = Host()
    host.rounds(40)
    monkeypatch.setattr(parts(host.governor)[part], method, boom)
    for _ in range(60):
        host.round()
        host.governor.read(host.slots, np.ones((SLOTS, 4)))
    assert sum(host.governor.faults.values()) >= 1
    assert host.governs()


@pytest.mark.parametrize(
    "changes",
    [
        {"step_s": np.nan},
        {"step_s": np.inf},
        {"step_s": -1.0},
        {"step_s": 0.0},
        {"draft_s": np.nan},
        {"draft_s": -1.0},
        {"verify_s": np.inf},
        {"batch_size": 0},
        {"batch_size": -3},
        {"verify_len": 0},
        {"verify_len": -5},
        {"num_draft_steps": -1},
        {"step_s": 1e300},
        {"step_s": 1e-300},
        {"batch_size": np.inf},
        {"verify_len": 1e300},
        {"confidence": np.full((SLOTS, LIMIT), np.nan)},
        {"confidence": np.full((SLOTS, LIMIT), np.inf)},
        {"confidence": np.full((SLOTS, LIMIT), -3.0)},
        {"accepted": np.full(SLOTS, -1, np.int32)},
        {"accepted": np.full(SLOTS, 99, np.int32)},
        {"observed": np.full(SLOTS, 99, np.int32)},
        {"observed": np.full(SLOTS, -9, np.int32)},
        {"proposed": np.full(SLOTS, 2**31 - 1, np.int32)},
        {"accepted": np.full(SLOTS, np.nan)},
        {"observed": np.ones(SLOTS - 1, np.int32)},
        {"observed": np.full(SLOTS, 2**32 - 1, np.uint32)},
        {"proposed": np.ones(1, np.int32)},
        {"accepted": np.zeros((SLOTS, 1), np.int32)},
        {"observed": [1] * SLOTS},
        {"proposed": None},
        {"confidence": np.ones(LIMIT)},
        {"confidence": np.ones((SLOTS - 1, LIMIT))},
        {"confidence": np.ones((SLOTS, LIMIT)).tolist()},
        {"draft": np.zeros(SLOTS + 1, np.int32)},
        {"draft": "model"},
        {"exhausted": np.full(SLOTS, 2**31 - 1, np.int32)},
        {"exhausted": np.ones((SLOTS, 1), np.bool_)},
        {"slots": np.full(SLOTS, 10**6, np.int32)},
        {"slots": np.full(SLOTS, -1, np.int32)},
        {"slots": np.ones(SLOTS, np.bool_)},
        {"slots": np.zeros((SLOTS, 1), np.int32)},
    ],
)
def test_what_a_host_says_is_dropped_where_it_makes_no_sense(changes: dict[str, Any]) -> None:
    host = Host()
    host.rounds(40)
    for _ in range(60):
        host.round(**changes)
    assert sum(host.governor.faults.values()) >= 40
    assert set(host.governor.faults) <= {"outcomes", "seconds", "confidence"}
    assert not host.governor._guard.benched(host.governor.num_steps)
    assert host.governs()


def test_sound_rows_are_learned_from_although_others_are_not() -> None:
    host = Host()
    half = np.array([-1, 2, 2], np.int32)
    for _ in range(40):
        host.round(proposed=np.full(SLOTS, 2, np.int32), accepted=half, observed=half)
    assert host.governor.faults == {"outcomes": 40}
    survival = host.governor._beliefs._drafts.drafts[0].survival(host.slots)[:, 1]
    assert survival[1] > survival[0]


def test_comparisons_that_make_no_sense_are_dropped() -> None:
    drafts = (DraftInfo("lookup", steps=False),)
    governor = Governor(FlakyFile(version=1), HostInfo("test", drafts=drafts))
    governor.admit(1)
    offer = Offer(0, np.ones(1, np.int32), np.full(1, 77, np.int32))
    governor.compare(np.zeros(1, np.int32), offer, np.ones(1, np.int32), np.ones(1, np.int32))
    assert governor.faults == {"offers": 1}
    assert governor.plan(np.zeros(1, np.int32), offers=[offer]).draft_len[0] == 0
    assert governor.faults == {"offers": 2}
    with pytest.raises(HostError, match="steps=True"):
        governor.read(np.zeros(1, np.int32), np.ones((1, 1)))


@pytest.mark.parametrize(
    ("slots", "match"),
    [
        (np.arange(SLOTS, dtype=np.int32), np.ones(4)),
        (np.arange(SLOTS, dtype=np.int32), np.ones((SLOTS - 1, 4))),
        (np.arange(SLOTS, dtype=np.int32), [[1.0]] * SLOTS),
        (np.arange(SLOTS, dtype=np.int32), np.full((SLOTS, 4), None)),
        (np.arange(SLOTS, dtype=np.int32) + 999, np.ones((SLOTS, 4))),
        (np.arange(SLOTS, dtype=np.int32) - 1, np.ones((SLOTS, 4))),
        ([0, 1, 2], np.ones((SLOTS, 4))),
    ],
)
def test_readings_that_make_no_sense_are_dropped(slots: Any, match: Any) -> None:
    host = Host()
    host.rounds(40)
    for _ in range(20):
        host.governor.read(slots, match)
        host.round()
    assert host.governor.faults == {"match": 20}
    assert host.governs()


ONE = np.ones(2, np.int32)


@pytest.mark.parametrize("slots", [np.arange(2, dtype=np.int32), np.array([-1, 99], np.int32)])
@pytest.mark.parametrize(
    "bad",
    [ONE[:1], ONE[:, None], ONE.tolist(), None, ONE.astype(np.uint8), ONE.astype(float), -ONE],
)
@pytest.mark.parametrize("place", range(4))
def test_offers_of_any_shape_leave_the_governor_in_peace(slots: Any, bad: Any, place: int) -> None:
    drafts = (DraftInfo("lookup", steps=False),)
    governor = Governor(FlakyFile(version=1), HostInfo("test", drafts=drafts), lambda: 0.0)
    governor.admit(2)
    arrays: list[Any] = [ONE, ONE, ONE, ONE]
    arrays[place] = bad
    for _ in range(20):
        governor.compare(slots, Offer(0, *arrays[:2]), *arrays[2:])
        plan = governor.plan(np.arange(2, dtype=np.int32), offers=[Offer(0, *arrays[:2])])
        assert plan.draft_len.dtype == np.int32
    assert set(governor.faults) == {"offers"}


def test_offers_of_another_integer_type_keep_lengths_what_they_are() -> None:
    drafts = (DraftInfo("lookup", steps=False),)
    governor = Governor(FlakyFile(version=1), HostInfo("test", drafts=drafts), lambda: 0.0)
    slots = governor.admit(2)
    offer = Offer(0, np.full(2, 2**40), np.zeros(2, np.int64))
    for _ in range(40):
        plan = governor.plan(slots, offers=[offer])
        length = int(plan.draft_len.max())
        governor.observe(
            Outcomes(plan.step_id, slots, plan.draft_len, plan.draft_len, plan.draft_len),
            Cost(plan.step_id, 1e-3, 2, length + 1, 0),
        )
        assert plan.draft_len.dtype == np.int32
    assert plan.draft_len.tolist() == [governor.max_draft_len] * 2


class Clock:
    """Moves on by the seconds of a decision each time it is read."""

    def __init__(self, seconds: float) -> None:
        self.now, self.seconds = 0.0, seconds

    def __call__(self) -> float:
        self.now += self.seconds
        return self.now


@pytest.mark.parametrize(("seconds", "benched"), [(0.5, True), (1e-3, False), (np.nan, False)])
def test_a_decision_slower_than_its_step_benches_the_policy(seconds: float, benched: bool) -> None:
    host = Host()
    host.governor._clock = Clock(seconds)
    host.rounds(FIRST_PAUSE)
    assert ("overrun" in host.governor.faults) is benched


def test_the_pause_doubles_until_trouble_stays_away() -> None:
    guard = Guard()
    pauses = []
    now = 1
    for _ in range(4):
        guard.bench(now)
        start = now
        while guard.benched(now + 1):
            now += 1
        pauses.append(now - start)
        now += 1
    assert pauses == [FIRST_PAUSE * 2**i for i in range(4)]
    now += 10_000
    guard.bench(now)
    assert guard.benched(now + FIRST_PAUSE)
    assert not guard.benched(now + FIRST_PAUSE + 1)


def test_good_lengths_pass_in_any_signed_type() -> None:
    for kind in (np.int8, np.int32, np.int64):
        assert check_lengths(np.array([0, 8], kind), 2, 8).dtype == np.int32
