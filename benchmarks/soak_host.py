"""A host that calls the governor in any order and says anything; for `benchmarks.soak`."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.soak_feedback import (
    BAD_SLOTS,
    BAD_TABLES,
    ODD_SLOTS,
    Feedback,
    Ints,
    random_host,
)
from benchmarks.soak_run import MOST_REQUESTS, Tally, expect, random_section
from flyball.controller.contract import Cost, Offer, Outcomes, Plan
from flyball.controller.governor import Governor
from flyball.controller.history import History
from flyball.controller.policy_file import load_policy

BAD = 0.25  # of what is said
SIZES = (0, 1, 1, 1, 1, 1, 2, 2, 3, 4, 5, 8, 8, 16, 32, 64, 256)  # of a step


def _still() -> float:
    """Time stands, so that no decision overruns its step."""
    return 0.0


class WildHost:
    """Random calls of a governor, whose answers and faults are checked.

    Args:
        policy: name of the length policy.
        seed: of everything.
    """

    def __init__(self, policy: str, seed: Sequence[int]) -> None:
        self._rng = np.random.default_rng(seed)
        self._choose = choose = random.Random(int(self._rng.integers(2**62)))
        self._host = random_host(choose)
        section = random_section(policy, choose)
        follow = choose.choice(("length", "shadows"))
        file = load_policy({"version": 1, "length": section, "governor": {"follow": follow}})
        self.subject = self.governor = Governor(file, self._host, _still)
        self.tally = Tally()
        self._feedback = Feedback(self._host, self._rng, choose)
        self._limit = min(section["max_draft_len"], self._host.max_draft_len)
        drafts = list(enumerate(self._host.drafts))
        self._stepping = [i for i, draft in drafts if draft.steps]
        self._offering = [i for i, draft in drafts if not draft.steps]
        self._explained: set[str] = set()  # kinds of faults that were provoked
        self._num_kinds = 0
        self._plans: deque[tuple[Plan, Ints]] = deque(maxlen=8)
        self._alive = self.governor.admit(MOST_REQUESTS)  # arrays have their size from here on
        self.governor.release(self._alive[4:])
        self._alive = self._alive[:4].copy()
        self._calls: list[Callable[[], None]] = [
            self._admit,
            self._release,
            *8 * [self._round],
            *3 * [self._observe_again],
            *3 * [self._observe_many],
            *2 * [self._read],
            *2 * [self._compare],
        ]

    def __repr__(self) -> str:
        """What it would take to see it again."""
        return f"{self._host}, {self.governor.policy_name}"

    def step(self) -> None:
        """One of the things that a host does.

        Raises:
            SoakError: the governor answered what it may not, or had a fault of its own.
        """
        self._choose.choice(self._calls)()

    def settle(self) -> None:
        """Leave nothing in the governor that depends on the last calls."""
        while len(self._alive) == 0:
            self._admit()
        # What is kept until something is learned is there at every look: of one request's offers,
        # and of every position.
        rows, sure = np.zeros(1, np.intp), np.ones(1)
        nothing, one = np.zeros(1, np.int32), np.ones(1, np.int32)
        offers = [Offer(draft, one, nothing) for draft in self._offering]
        for _ in range(self._host.feedback_delay + 2):
            self._ask(self.governor.plan, self._alive[:1], None, offers)
        plan = self._ask(self.governor.plan, self._alive[:1])  # whose draft steps, if any does
        for position in range(1, self._limit):
            self._ask(self.governor.stop, plan.step_id, rows, position, sure)

    def _bad(self, *kinds: str) -> bool:
        """Whether to say something wrong, which may be counted as faults of these kinds."""
        if self._choose.random() < BAD:
            self._explained.update(kinds)
            return True
        return False

    def _ask(self, function: Callable[..., Any], *arguments: Any) -> Any:
        answer = self.tally.time(function, *arguments)
        faults = self.governor.faults
        if len(faults) > self._num_kinds:
            self._num_kinds = len(faults)
            expect(set(faults) <= self._explained, f"faults among {self._explained}", faults)
        benched = self.governor._guard.benched(self.governor.num_steps + 1)
        expect(not benched, "a policy that goes on, whatever the host says", faults)
        return answer

    def _some(self) -> Ints:
        """Some of the requests (n,), that nobody may write to."""
        choose, alive = self._choose, self._alive
        size = min(len(alive), choose.choice(SIZES))
        start = choose.randint(0, len(alive) - size)
        slots = alive[start : start + size].copy()
        slots.flags.writeable = False
        return slots

    def _admit(self) -> None:
        room = MOST_REQUESTS - len(self._alive)
        number = min(room, self._choose.choice((0, 1, 1, 2, 4, 16, 256)))
        slots = self._ask(self.governor.admit, number)
        expect(slots.dtype == np.int32 and slots.shape == (number,), f"{number} slots", slots)
        alive = np.concatenate([self._alive, slots])
        expect(len(np.unique(alive)) == len(alive), "slots that are free", slots)
        expect(alive.max(initial=0) < MOST_REQUESTS, "slots that are reused", slots)
        self._alive = self._rng.permutation(alive)

    def _release(self) -> None:
        slots = self._some()
        self._alive = self._alive[~np.isin(self._alive, slots)]
        odd = self._choose.random()
        if odd < 0.1:
            slots = np.concatenate([slots, slots])
        elif odd < 0.2:
            slots = np.concatenate([slots, np.array([-1, 10**6], np.int32)])
        self._ask(self.governor.release, slots)
        if odd > 0.9:  # again
            self._ask(self.governor.release, slots)

    def _round(self) -> None:
        """Plan, ask in mid-draft, observe; each of which may be left out."""
        slots = self._some()
        plan = self._plan(slots)
        self._plans.append((plan, slots))
        if self.governor.wants_confidence and self._choose.random() < 0.6:
            if self._host.trims:
                self._trim(plan)
            else:
                self._stop(plan)
        for _ in range(self._choose.choice((0, 1, 1, 1, 2))):
            self._observe(plan, slots)

    def _plan(self, slots: Ints) -> Plan:
        choose = self._choose
        offers = []
        if self._offering and choose.random() < 0.8:
            offers = self._feedback.offers(self._offering, len(slots))
            if self._bad("offers"):
                offers = [self._feedback.spoilt_offer(offer) for offer in offers]
        batch_size = choose.choice((None, None, None, len(slots), len(slots) + 7, 0, -5, 10**9))
        context_len = slots if choose.random() < 0.2 else None
        plan: Plan = self._ask(
            self.governor.plan, slots, batch_size, offers, context_len, choose.randrange(9)
        )
        self._check(plan, len(slots), offers)
        return plan

    def _check(self, plan: Plan, num_rows: int, offers: Sequence[Offer]) -> None:
        most = max(0, len(self._host.drafts) - 1)
        for values, limit in ((plan.draft_len, self._limit), (plan.draft, most)):
            fits = values.dtype == np.int32 and values.shape == (num_rows,)
            fits = fits and (num_rows == 0 or (values.min() >= 0 and values.max() <= limit))
            expect(fits, f"{num_rows} integers from 0 to {limit}", values)
        if num_rows and not self._host.ragged_ok:
            expect(plan.draft_len.min() == plan.draft_len.max(), "equal lengths", plan)
        drafts = plan.draft[plan.draft_len > 0]
        stepped = drafts[np.isin(drafts, self._stepping)]
        expect(len(np.unique(stepped)) <= 1, "one draft that steps", drafts)
        offered = {offer.draft for offer in offers} | set(stepped.tolist())
        expect(set(drafts.tolist()) <= offered, f"drafts among {offered}", drafts)

    def _stop(self, plan: Plan) -> None:
        choose = self._choose
        rows = np.flatnonzero(np.isin(plan.draft, self._stepping) & (plan.draft_len > 0))
        late = choose.random() < 0.05
        step_id = plan.step_id - late
        for position in range(1, min(self._limit, choose.choice((2, 4, 70)))):
            rows = rows[plan.draft_len[rows] > position]
            confidence = self._feedback.table(len(rows), 1)[:, 0]
            if choose.random() < 0.1:
                confidence = choose.choice(BAD_TABLES[:5])(confidence)
            entropy = choose.choice((None, 3.0 * confidence))
            ends = self._ask(self.governor.stop, step_id, rows, position, confidence, entropy)
            fits = ends.dtype == np.bool_ and ends.shape == rows.shape
            expect(fits, f"{len(rows)} booleans", ends)
            expect(not late or ends.all(), "drafts of other steps to end", ends)
            rows = rows[~ends]
            if len(rows) == 0:
                break

    def _trim(self, plan: Plan) -> None:
        choose = self._choose
        rows = np.flatnonzero(self._rng.random(len(plan.draft_len)) < 0.8)
        late = choose.random() < 0.05
        for _ in range(choose.choice((1, 1, 3))):  # a plan may be drafted under several times
            lengths, sure = plan.draft_len[rows], self._feedback.table(len(rows), 64)
            if choose.random() < 0.1:
                sure = choose.choice(BAD_TABLES[:5])(sure)
            kept, foreseen = self._ask(
                self.governor.trim, plan.step_id - late, rows, lengths, sure
            )
            fits = kept.dtype == np.int32 and kept.shape == rows.shape
            fits = fits and bool(
                (np.minimum(lengths, 1) <= kept).all() and (kept <= lengths).all()
            )
            expect(fits, f"lengths of 1 to {lengths}", kept)
            expect(foreseen.shape == rows.shape, f"{len(rows)} probabilities", foreseen)
            expect(not late or (kept == lengths).all(), "drafts of other steps left alone", kept)

    def _outcomes(self, plan: Plan, slots: Ints) -> Outcomes:
        """What one round showed, perhaps with rows missing."""
        outcomes = self._feedback.outcomes(plan.step_id, slots, plan.draft_len, plan.draft)
        if self._choose.random() < 0.1:
            outcomes = outcomes.only(self._rng.random(len(slots)) < 0.7)
        if self._bad("outcomes", "confidence"):
            outcomes = self._feedback.spoilt(outcomes)
        return outcomes

    def _cost(self, plan: Plan) -> Cost | None:
        if self._choose.random() < 0.1:
            return None
        cost = self._feedback.cost(plan.step_id, len(plan.draft_len), plan.draft_len)
        return self._feedback.spoilt_cost(cost) if self._bad("seconds") else cost

    def _observe(self, plan: Plan, slots: Ints) -> None:
        self._ask(self.governor.observe, self._outcomes(plan, slots), self._cost(plan))

    def _observe_again(self) -> None:
        """An outcome that is late, or comes twice."""
        if self._plans:
            self._observe(*self._choose.choice(self._plans))

    def _observe_many(self) -> None:
        """Some rounds at once, no more rows than requests."""
        plans = [entry for entry in self._plans if len(entry[1]) <= MOST_REQUESTS // 8]
        if not plans:
            return
        rounds = [
            self._feedback.outcomes(plan.step_id, slots, plan.draft_len, plan.draft)
            for plan, slots in plans
        ]
        counts = [
            np.concatenate([getattr(rows, name) for rows in rounds])
            for name in ("slots", "proposed", "accepted", "observed")
        ]
        draft = np.concatenate([plan.draft for plan, _ in plans])
        joined = Outcomes(rounds[0].step_id, *counts)
        if rounds[0].draft is not None:
            joined = replace(joined, draft=draft)
        if self._bad("outcomes", "confidence"):
            joined = self._feedback.spoilt(joined)
        history = History(
            joined,
            [rows.step_id for rows in rounds],
            [len(rows.slots) for rows in rounds],
            [self._cost(plan) for plan, _ in plans],
        )
        if self._bad("outcomes"):
            field = self._choose.choice(("step_ids", "num_rows", "costs"))
            history = replace(history, **{field: getattr(history, field)[1:]})
        self._ask(self.governor.observe_many, history)

    def _read(self) -> None:
        if not self._stepping:
            return
        slots: NDArray[Any] = self._some()
        match: Any = self._feedback.match(len(slots))
        if self._bad("match"):
            odd = self._choose.random()
            if odd < 0.5:
                match = self._choose.choice(BAD_TABLES)(match)
            else:
                slots = self._choose.choice((*BAD_SLOTS, *ODD_SLOTS))(slots)
        signs: list[Any] = [None, None]
        if isinstance(match, np.ndarray) and match.ndim == 2 and match.shape[1] <= 64:
            signs = [self._feedback.table(*match.shape) for _ in signs]
        if self._bad("match", "confidence"):
            signs[0] = self._choose.choice(BAD_TABLES)(np.zeros((3, 4)))
        draft = self._choose.choice(self._stepping)
        self._ask(self.governor.read, slots, match, draft, *signs)

    def _compare(self) -> None:
        if not self._offering:
            return
        slots: Any = self._some()
        (offer,) = self._feedback.offers([self._choose.choice(self._offering)], len(slots))
        length = np.minimum(offer.draft_len, np.int32(self._limit))
        rows = self._feedback.outcomes(0, slots, length, length)
        rows = replace(rows, accepted=np.minimum(rows.accepted, rows.observed))
        if self._bad("offers"):
            if self._choose.random() < 0.5:
                offer = self._feedback.spoilt_offer(offer)
            else:
                rows = self._feedback.spoilt(rows)
        self._ask(self.governor.compare, rows.slots, offer, rows.accepted, rows.observed)
