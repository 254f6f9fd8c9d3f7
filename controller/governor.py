"""The governor: the only object that a host talks to."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from flyball.controller.beliefs import Beliefs
from flyball.controller.contests import Contests
from flyball.controller.contract import Cost, DraftInfo, HostInfo, Offer, Outcomes, Plan
from flyball.controller.cost_table import CostTable
from flyball.controller.ensemble import Ensemble
from flyball.controller.guard import Guard, check_draft, check_room
from flyball.controller.history import History
from flyball.controller.learner import Learner
from flyball.controller.limits import Limits
from flyball.controller.planner import Planner
from flyball.controller.policy_file import PolicyFile
from flyball.controller.recording import open_recording
from flyball.controller.seat import Seat
from flyball.controller.steps import Step, Steps
from flyball.estimators.slots import SlotPool
from flyball.policies.length.base import View

__all__ = ["Cost", "DraftInfo", "Governor", "HostInfo", "Offer", "Outcomes", "Plan"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int32]
Bools = NDArray[np.bool_]
Rows = NDArray[np.intp]


class Governor:
    """Plans draft lengths and learns from outcomes.

    Requests live in integer slots: `admit` hands them out, `release` takes them back. A round is
    `plan`, then `stop` in mid-draft where the host can, then `observe`. `read` takes in what a
    draft would have proposed on text that it only read, `compare` how an offer would have done.
    Everything is vectorised over requests, and memory is bounded by the number of requests alive
    at once. Nothing that a policy or an estimator does raises here (see `guard`): what goes wrong
    in the planner or the learner is caught, counted and put right.

    Args:
        policy: validated policy file.
        host: what the host can do.
        clock: seconds, to time the decisions.
        costs: what steps are taken to cost, whatever they took, so that decisions repeat; None
            to learn it.

    Attributes:
        num_steps: steps that were planned; the id of the last.
        contests: groups of candidates that compete, for searches.
        limits: within which it plans, and its host admits.
    """

    def __init__(
        self,
        policy: PolicyFile,
        host: HostInfo,
        clock: Callable[[], float] = time.perf_counter,
        costs: CostTable | None = None,
    ) -> None:
        self._host = host
        self._clock = clock
        self._costs = costs
        self._guard = Guard()
        self._pool = SlotPool()
        self._seat = Seat(policy, host, self._pool)
        self.num_steps = 0
        self.limits = Limits()
        self._steps = Steps(host.feedback_delay)
        self._ensemble: Ensemble | None = None
        if host.num_members and policy.ensemble is not None:
            self._ensemble = Ensemble(policy, host.num_members, self._pool)
        self.contests = Contests(policy, self._guard, self._token_price)
        self._recording = open_recording(policy, host)
        self._start_anew()

    def _start_anew(self) -> None:
        """Believe nothing: beliefs are for a largest length, and for confidences or none."""
        host, guard, pool, seat = self._host, self._guard, self._pool, self._seat
        steps, ensemble = self._steps, self._ensemble
        beliefs = Beliefs(host, self.max_draft_len, self.wants_confidence, guard)
        self._beliefs = beliefs
        self._planner = Planner(host, guard, seat, beliefs, ensemble)
        self._learner = Learner(
            host, guard, pool, seat, steps, beliefs, ensemble, self._recording, self._costs
        )

    @property
    def max_draft_len(self) -> int:
        """Largest length that policy file and host allow."""
        return self._seat.max_draft_len

    @property
    def engine_id(self) -> str:
        """Name of the engine."""
        return self._host.engine_id

    @property
    def policy_file(self) -> PolicyFile:
        """In force."""
        return self._seat.file

    @property
    def wants_confidence(self) -> bool:
        """Whether the policy wants to be asked where drafts end, by how sure they are."""
        return self._seat.wants_confidence

    @property
    def wants_entropy(self) -> bool:
        """Whether the policy wants to know entropies then, too."""
        return self._seat.wants_entropy

    @property
    def wants_reading(self) -> bool:
        """Whether the policy wants skipped text read."""
        return self._seat.wants_reading

    def read_every(self, draft: int = 0) -> int:
        """After how many skipped tokens a stepping draft should read them, where that is wanted.

        From 4 to 32, so that the forward takes about 1% of the seconds.

        Raises:
            HostError: it is no draft that steps.
        """
        check_draft(self._host, draft, steps=True)
        return self._beliefs.read_every(draft)

    @property
    def drafts_together(self) -> bool:
        """Whether the drafts have an ensemble, behind them as one more that steps."""
        return self._ensemble is not None

    @property
    def follows_shadows(self) -> bool:
        """Whether even the one token that a round left over is wanted read."""
        return self._seat.shadows is not None and self._seat.shadows.listening

    @property
    def policy_name(self) -> str:
        """The policy in force and its version."""
        return self._seat.name

    @property
    def view(self) -> View | None:
        """What the last plan was made from; None where there was no policy."""
        look = self._steps.latest.look
        return None if look is None else look.view

    @property
    def faults(self) -> dict[str, int]:
        """How often each kind of fault happened."""
        return self._guard.faults

    def _fail(self, error: Exception) -> None:
        """Count a fault, bench the policy and forget what may be spoilt."""
        kind = self._guard.at_work
        self._guard.count(kind, repr(error))
        self._guard.bench(self.num_steps)
        self._seat.vacate()
        self._steps.forget_looks()
        self._beliefs.forget(kind)
        if self._ensemble is not None and kind in ("ensemble", "admit"):
            self._ensemble.forget()

    def admit(self, num_requests: int, since: NDArray[np.int64] | None = None) -> Ints:
        """Slots (num_requests,) for new requests.

        Args:
            num_requests: how many.
            since: (num_requests,) the step before which each entered, where outcomes come before
                the admission; the next by default.
        """
        slots = self._pool.take(num_requests, self.num_steps if since is None else since - 1)
        if self._recording is not None:
            self._recording.admit(slots)
        try:
            self._beliefs.admit(slots)
            self._guard.at_work = "admit"
            if self._ensemble is not None:
                self._ensemble.admit(slots)
            if self._seat.shadows is not None:
                self._seat.shadows.admit(slots)
            if self._seat.policy is not None:
                self._seat.policy.admit(slots)
        except Exception as error:
            self._fail(error)
        return slots

    def release(self, slots: Ints) -> None:
        """Take slots back; feedback for them that comes later is ignored."""
        self._pool.give_back(slots)

    def plan(
        self,
        slots: Ints,
        batch_size: int | None = None,
        offers: Sequence[Offer] = (),
        context_len: Ints | None = None,
        num_waiting: int = 0,
        sampled: bool = False,
        room: Ints | None = None,
    ) -> Plan:
        """Draft lengths for the coming round of these requests.

        Args:
            slots: (n,) requests.
            batch_size: rows that the forwards run over, where finished ones still take part;
                n by default.
            offers: what the drafts without steps propose.
            context_len: (n,) tokens of each request so far, for the trace.
            num_waiting: requests that wait to be served, for the trace.
            sampled: whether tokens are drawn, or the most likely taken, for an ensemble.
            room: (stepping drafts, n) tokens that each draft which steps has room for; None where
                all have room for the longest draft.

        Raises:
            HostError: an offer is of no draft that makes offers, or room not of those that step.
        """
        if room is not None:
            check_room(self._host, room, len(slots))
        self.num_steps += 1
        if self._seat.reseat():
            self._steps.forget_looks()
            self._start_anew()
            self._beliefs.admit(np.arange(self._pool.num_slots, dtype=np.int32))
        if self._ensemble is not None:
            self._ensemble.reload(self._seat.file)
        step = self._steps.start(
            Step(self.num_steps, slots, self._seat.name, context_len, num_waiting)
        )
        nothing = np.zeros(len(slots), np.int32)
        if len(slots) == 0 or self._guard.benched(self.num_steps):
            return Plan(self.num_steps, nothing, nothing)
        if offers:
            for offer in offers:
                check_draft(self._host, offer.draft, steps=False)
            offers = self._guard.sound_offers(offers, len(slots))
        offers, room = self.limits.bound_drafts(self._host, offers, room, len(slots))
        started = self._clock()
        try:
            plan = self._planner.plan(step, batch_size or len(slots), offers, room, sampled)
        except Exception as error:
            self._fail(error)
            plan = Plan(self.num_steps, nothing, nothing)
        step.decision_s = self._clock() - started
        step.planned = plan.draft_len
        return plan

    def _token_price(self, batch_size: int) -> float:
        """What one more row's token costs in a batch, in tokens: from 0 to 1; see `Load`."""
        try:
            return self._beliefs.token_price(batch_size)
        except Exception as error:
            self._fail(error)
            return 1.0

    def stop(
        self,
        step_id: int,
        rows: Rows,
        position: int,
        confidence: Floats,
        entropy: Floats | None = None,
    ) -> Bools:
        """Which drafts end with the token at `position`.

        Asked before that token is drawn, for every position in turn; a draft that ended is not
        asked for again, nor is an offer.

        Args:
            step_id: of the plan.
            rows: (m,) rows of the plan whose drafts go on, ascending.
            position: 1 for the first drafted token.
            confidence: (m,) the draft's largest probability at `position`.
            entropy: (m,) of its distribution there, in nats, if known.

        Returns:
            (m,) True where nothing is drafted after `position`.
        """
        step = self._steps.latest
        if step.step_id != step_id or not step.can_ask or position >= self._seat.max_draft_len:
            return np.ones(len(rows), np.bool_)
        started = self._clock()
        try:
            ends = self._planner.stop(step, rows, position, confidence, entropy)
        except Exception as error:
            self._fail(error)
            ends = np.ones(len(rows), np.bool_)
        step.decision_s += self._clock() - started
        return ends

    def trim(
        self, step_id: int, rows: Rows, draft_len: Ints, confidence: Floats
    ) -> tuple[Ints, Floats]:
        """How many tokens of finished drafts to verify, by how sure the draft was of each.

        The same question as `stop`, position by position, where the draft is paid for and only
        its verification is still to be saved; asked of one plan as often as it is drafted under.
        Where that is a small part of the round, policies that weigh it are not asked.

        Args:
            step_id: of the plan.
            rows: (m,) rows of the plan, ascending.
            draft_len: (m,) tokens that may be verified.
            confidence: (m, >= draft_len) the draft's largest probability by position.

        Returns:
            (m,) tokens to verify, at least 1 of each draft that has any; and what to say of the
            first that is left out, see `Outcomes.foreseen`.
        """
        step = self._steps.latest
        if step.step_id != step_id or not step.can_ask:
            return draft_len, np.full(len(rows), np.nan)
        started = self._clock()
        try:
            answer = self._planner.trim(step, rows, draft_len, confidence)
        except Exception as error:
            self._fail(error)
            answer = draft_len, np.full(len(rows), np.nan)
        step.trim_s = max(step.trim_s, self._clock() - started)
        return answer

    def observe(self, outcomes: Outcomes, cost: Cost | None = None) -> None:
        """Learn from a step; may be called late, or never, or with rows missing."""
        try:
            self._learner.observe(outcomes, cost)
        except Exception as error:
            self._fail(error)

    def observe_many(self, history: History) -> None:
        """Learn from several rounds at once; cheaper than one after the other."""
        try:
            self._learner.observe_many(history)
        except Exception as error:
            self._fail(error)

    def read(
        self,
        slots: Ints,
        match: Floats,
        draft: int = 0,
        confidence: Floats | None = None,
        entropy: Floats | None = None,
    ) -> None:
        """What a draft would have proposed on settled text that it only read.

        Args:
            slots: (n,) distinct requests.
            match: (n, w) for consecutive tokens of each request's text: probability that the
                draft's proposal would have been accepted (0 or 1 under greedy decoding), NaN
                where there is no token.
            draft: which one, of those that step.
            confidence: (n, w) the draft's largest probability at each token, if known.
            entropy: (n, w) of its distribution there, in nats, if known.
        """
        check_draft(self._host, draft, steps=True)
        try:
            self._learner.read(slots, match, draft, confidence, entropy)
        except Exception as error:
            self._fail(error)

    def compare(self, slots: Ints, offer: Offer, num_matched: Ints, num_compared: Ints) -> None:
        """How an offer would have done, used or not; the only way its estimator learns.

        Args:
            slots: (n,) distinct requests.
            offer: what was on offer for them.
            num_matched: (n,) leading tokens that equalled the settled text.
            num_compared: (n,) tokens compared, never beyond the first miss.
        """
        check_draft(self._host, offer.draft, steps=False)
        try:
            self._learner.compare(slots, offer, num_matched, num_compared)
        except Exception as error:
            self._fail(error)

    def weigh(
        self,
        step_id: int,
        slots: Ints,
        overlap: Floats,
        row: Rows,
        kind: str | None,
        values: Floats | None,
        sampled: bool,
    ) -> None:
        """What a round showed of the ensemble's members; may come late, or never.

        Args:
            step_id: of the plan.
            slots: (n,) requests.
            overlap: (n, K, members) probability that each member's own token would have been
                accepted, by position; NaN where none was observed or a member had no say.
            row: (N,) row of each observed position, ascending.
            kind: of evidence, as `Plan.wanted` named it.
            values: (N, ...) this evidence, by observed position; None where none was wanted.
            sampled: as planned.
        """
        try:
            self._learner.weigh(step_id, slots, overlap, row, kind, values, sampled)
        except Exception as error:
            self._fail(error)

    def close(self) -> None:
        """Write out what is pending; hosts call it when they are done."""
        self._seat.close()
        if self._recording is not None:
            self._recording.close()
