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
from flyball.controller.guard import (
    SLOW_DECISION_S,
    BadAnswerError,
    Guard,
    Plans,
    check_draft,
    check_lengths,
    check_room,
    check_stops,
)
from flyball.controller.history import History
from flyball.controller.limits import Limits
from flyball.controller.look import Look
from flyball.controller.policy_file import PolicyFile
from flyball.controller.recording import open_recording
from flyball.controller.seat import Seat
from flyball.controller.shadows import Shadows
from flyball.controller.steps import Step, Steps
from flyball.estimators.slots import SlotPool
from flyball.policies.length.base import RoundResult, View

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
    at once. Nothing that a policy or an estimator does raises here (see `guard`).

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
        self._beliefs = self._make_beliefs()
        self._recording = open_recording(policy, host)

    def _make_beliefs(self) -> Beliefs:
        return Beliefs(self._host, self.max_draft_len, self.wants_confidence, self._guard)

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
            self._beliefs = self._make_beliefs()
            self._beliefs.admit(np.arange(self._pool.num_slots, dtype=np.int32))
        if self._ensemble is not None:
            self._ensemble.reload(self._seat.file)
        step = self._steps.start(
            Step(self.num_steps, slots, self.policy_name, context_len, num_waiting)
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
            look = self._beliefs.look(slots, batch_size or len(slots), offers, room)
            plan = self._decide(look)
            if self._ensemble is not None:
                self._guard.at_work = "ensemble"
                plan.weights = self._ensemble.decide(slots, sampled)
                plan.wanted = self._ensemble.wanted(sampled)
            step.look, step.propensity = look, self._seat.propensity
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

    def _decide(self, look: Look) -> Plan:
        if self._seat.policy is None:
            self._guard.at_work = "admit"
            self._seat.hire()
        self._guard.at_work = "decide"
        view, choice = look.view, look.choice
        draft_len = check_lengths(self._seat.decide(view), len(view.slots), self.max_draft_len)
        drafts = self._host.drafts
        picks = len(drafts) > 1 or not all(draft.steps for draft in drafts)
        if picks and not self.wants_confidence:
            choice = self._beliefs.rechoose(look, int(draft_len.max()))
        if self._host.ragged_ok:
            draft_len = np.minimum(draft_len, choice.limit)
        else:
            draft_len[:] = min(round(float(draft_len.mean())), int(choice.limit.min()))
        return Plan(self.num_steps, draft_len, choice.draft)

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
        if step.step_id != step_id or not step.can_ask or position >= self.max_draft_len:
            return np.ones(len(rows), np.bool_)
        started = self._clock()
        self._guard.at_work = "stop"
        try:
            progress = step.advance(rows, position, confidence, entropy)
            if position == 1 and step.look is not None:
                progress.overdue = self._beliefs.overdue(step.look.way)
            ends = check_stops(self._seat.ask(progress), len(rows))
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
        step, nothing = self._steps.latest, np.full(len(rows), np.nan)
        if step.step_id != step_id or step.look is None or not step.can_ask:
            return draft_len, nothing
        started, policy, answer = self._clock(), self._seat.policy, (draft_len, nothing)
        self._guard.at_work = "stop"
        try:
            if policy is not None and (policy.still or step.look.can_save(draft_len)):
                overdue = self._beliefs.overdue(step.look.way)
                answer = step.trim(self._seat.ask, rows, draft_len, confidence, overdue)
        except Exception as error:
            self._fail(error)
        step.trim_s = max(step.trim_s, self._clock() - started)
        return answer

    def observe(self, outcomes: Outcomes, cost: Cost | None = None) -> None:
        """Learn from a step; may be called late, or never, or with rows missing."""
        try:
            keep = self._sound(outcomes, lambda: outcomes.step_id)
            rows = None
            if keep is not None:
                rows = outcomes if keep.all() else outcomes.only(keep)
                self._beliefs.note(rows, 1)
                self._teach(rows)
            priced = self._priced(cost)
            if priced is not None:
                self._observe_cost(priced, rows)
            if self._seat.shadows is not None:
                self._follow(self._seat.shadows, rows, priced)
            if rows is not None:
                self._record(rows, cost)
        except Exception as error:
            self._fail(error)

    def observe_many(self, history: History) -> None:
        """Learn from several rounds at once; cheaper than one after the other."""
        try:
            keep = self._sound(history.outcomes, history.plans)
            if keep is not None:
                if not keep.all():
                    history = history.only(keep)
                self._beliefs.note(history.outcomes, sum(map(bool, history.num_rows)))
                if self._seat.policy is not None and self._seat.policy.learns:
                    for rows, _ in history:
                        self._teach(rows)
            self._observe_costs([self._priced(cost) for cost in history.costs])
            if keep is not None and self._recording is not None:
                for rows, cost in history:
                    self._record(rows, cost)
        except Exception as error:
            self._fail(error)

    def _priced(self, cost: Cost | None) -> Cost | None:
        if cost is None or self._costs is None:
            return cost
        return self._costs.priced(cost, self.wants_confidence and self._host.mid_draft_stop)

    def _record(self, rows: Outcomes, cost: Cost | None) -> None:
        if self._recording is not None:
            self._guard.at_work = "trace"
            self._recording.add(rows, cost, self._steps.find(rows.step_id))

    def _sound(self, outcomes: Outcomes, plans: Callable[[], Plans]) -> Bools | None:
        self._guard.at_work = "outcomes"
        return self._guard.sound_outcomes(outcomes, plans, self._pool, self.max_draft_len)

    def _teach(self, rows: Outcomes) -> None:
        policy = self._seat.policy
        if policy is not None and policy.learns:
            self._guard.at_work = "learn"
            policy.learn(RoundResult(rows.slots, rows.proposed, rows.accepted))

    def _follow(self, shadows: Shadows, rows: Outcomes | None, cost: Cost | None) -> None:
        """Let shadows walk over what settled, and hire whom they recommend."""
        self._guard.at_work = "shadows"
        if rows is not None:
            shadows.note(rows)
        if cost is not None and cost.sound:
            shadows.allow(cost.step_s)
        step = self._steps.latest
        if not shadows.due or step.look is None or step.look.quoted is None:
            return
        look, acting = step.look, shadows.acting
        shadows.walk(step.slots, lambda slots: self._beliefs.know(slots, look))
        if shadows.acting != acting:
            self._seat.hire()

    def _observe_costs(self, costs: Sequence[Cost | None]) -> None:
        """Take in what several rounds cost; those of a plan follow each other."""
        before = None
        for cost in costs:
            if cost is not None and cost.step_id != before:
                before = cost.step_id
                self._observe_cost(cost, None)
            elif cost is not None:
                self._beliefs.learn_cost(cost)

    def _observe_cost(self, cost: Cost, rows: Outcomes | None) -> None:
        step = self._steps.find(cost.step_id)
        look, accepted = None, None
        if step is not None:
            look = step.look
            if rows is not None and np.array_equal(rows.slots, step.slots):
                accepted = rows.gained
        self._beliefs.observe_cost(cost, look, accepted)
        decision_s = 0.0 if step is None else step.decision_s + step.trim_s
        if decision_s > max(SLOW_DECISION_S, cost.step_s):
            self._guard.at_work = "overrun"
            raise BadAnswerError(f"a decision of {decision_s} s governed {cost.step_s} s")

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
        num_slots = self._pool.num_slots
        if (
            not self._guard.sound_reading(slots, match, (confidence, entropy), num_slots)
            or match.size == 0
        ):
            return
        try:
            if match.shape[1] > 1:  # a single one is what a round left over, for shadows alone
                self._beliefs.read(slots, match, draft)
            if self._seat.shadows is not None:
                self._guard.at_work = "shadows"
                self._seat.shadows.read(slots, match, confidence, entropy)
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
        sound = self._guard.sound_comparison(
            slots, offer, num_matched, num_compared, self._pool.num_slots, self.max_draft_len
        )
        if sound is None:
            return
        try:
            self._beliefs.compare(*sound)
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
        if self._ensemble is None:
            return
        try:
            self._guard.at_work = "ensemble"
            current = self._pool.current(slots, step_id)
            if not current.all():
                keep = current[row]
                row = np.cumsum(current)[row[keep]] - 1
                values = None if values is None else values[keep]
                slots, overlap = slots[current], overlap[current]
            if len(slots) == 0 or overlap.size == 0:
                return
            self._beliefs.read_members(slots, overlap)
            self._guard.at_work = "ensemble"
            if kind is not None and values is not None:
                self._ensemble.learn(slots, row, kind, values, sampled)
        except Exception as error:
            self._fail(error)

    def close(self) -> None:
        """Write out what is pending; hosts call it when they are done."""
        self._seat.close()
        if self._recording is not None:
            self._recording.close()
