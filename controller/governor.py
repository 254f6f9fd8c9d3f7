"""The governor: the only object that a host talks to."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from flyball.controller.beliefs import Beliefs, Look
from flyball.controller.contract import Cost, DraftInfo, HostInfo, Offer, Outcomes, Plan
from flyball.controller.errors import HostError
from flyball.controller.guard import (
    SLOW_DECISION_S,
    BadAnswerError,
    Guard,
    check_lengths,
    check_stops,
    sound_rows,
)
from flyball.controller.policy_file import PolicyFile
from flyball.estimators.acceptance import confidence_cells
from flyball.estimators.drafts import NUM_STRENGTHS
from flyball.estimators.slots import SlotArray
from flyball.policies.length.base import LengthPolicy, Progress, RoundResult

if TYPE_CHECKING:
    from flyball.controller.recording import Recording

__all__ = ["Cost", "DraftInfo", "Governor", "HostInfo", "Offer", "Outcomes", "Plan"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int32]
Bools = NDArray[np.bool_]


@dataclass(slots=True)
class _Step:
    """What the governor remembers of the step it planned last."""

    step_id: int
    slots: Ints
    context_len: Ints | None = None
    num_waiting: int = 0
    planned: Ints | None = None  # (n,)
    look: Look | None = None  # None in a round without the policy
    survival: Floats | None = None  # of the drafts so far (n,)
    decision_s: float = 0.0


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
    """

    def __init__(
        self, policy: PolicyFile, host: HostInfo, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._host = host
        self._clock = clock
        self._policy_file = policy
        self._policy: LengthPolicy | None = policy.make_length_policy()
        self.wants_confidence = self._policy.stops and host.mid_draft_stop
        self.wants_reading = self._policy.reads
        self.max_draft_len = min(policy.length.max_draft_len, host.max_draft_len)
        self._guard = Guard()
        self._free: list[int] = []
        self._num_slots = 0
        self._admitted_at = SlotArray(np.inf)  # step of admission; infinite while free
        self._num_steps = 0
        self._step = _Step(0, np.zeros(0, np.int32))
        self._beliefs = Beliefs(host, self.max_draft_len, self.wants_confidence, self._guard)
        self._recording = _open_recording(policy, host)

    @property
    def faults(self) -> dict[str, int]:
        """How often each kind of fault happened."""
        return self._guard.faults

    def _fail(self, error: Exception) -> None:
        """Count a fault, bench the policy and forget what may be spoilt."""
        kind = self._guard.at_work
        self._guard.count(kind, repr(error))
        self._guard.bench(self._num_steps)
        self._policy = None
        self._step.look = None
        self._beliefs.forget(kind)

    def admit(self, num_requests: int) -> Ints:
        """Slots (num_requests,) for new requests."""
        reused = [self._free.pop() for _ in range(min(num_requests, len(self._free)))]
        fresh = range(self._num_slots, self._num_slots + num_requests - len(reused))
        self._num_slots += len(fresh)
        slots = np.array([*reused, *fresh], np.int32)
        self._admitted_at.reset(slots)
        self._admitted_at.values[slots] = self._num_steps
        if self._recording is not None:
            self._recording.admit(slots)
        try:
            self._beliefs.admit(slots)
            self._guard.at_work = "admit"
            if self._policy is not None:
                self._policy.admit(slots)
        except Exception as error:
            self._fail(error)
        return slots

    def release(self, slots: Ints) -> None:
        """Take slots back; feedback for them that comes later is ignored."""
        live = slots[np.isfinite(self._admitted_at.values[slots])]
        self._admitted_at.values[live] = np.inf
        self._free.extend(live.tolist())

    def plan(
        self,
        slots: Ints,
        batch_size: int | None = None,
        offers: Sequence[Offer] = (),
        context_len: Ints | None = None,
        num_waiting: int = 0,
    ) -> Plan:
        """Draft lengths for the coming round of these requests.

        Args:
            slots: (n,) requests.
            batch_size: rows that the forwards run over, where finished ones still take part;
                n by default.
            offers: what the drafts without steps propose.
            context_len: (n,) tokens of each request so far, for the trace.
            num_waiting: requests that wait to be served, for the trace.

        Raises:
            HostError: an offer is of no draft that makes offers.
        """
        self._num_steps += 1
        self._step = step = _Step(self._num_steps, slots, context_len, num_waiting)
        nothing = np.zeros(len(slots), np.int32)
        if len(slots) == 0 or self._guard.benched(self._num_steps):
            return Plan(self._num_steps, nothing, nothing)
        if offers:
            offers = self._sound_offers(offers, len(slots))
        started = self._clock()
        try:
            look = self._beliefs.look(slots, batch_size or len(slots), offers)
            plan = self._decide(look)
            step.look = look
            step.survival = np.ones(len(slots))
        except Exception as error:
            self._fail(error)
            plan = Plan(self._num_steps, nothing, nothing)
        step.decision_s = self._clock() - started
        step.planned = plan.draft_len
        return plan

    def _check_draft(self, draft: int, steps: bool) -> None:
        drafts = self._host.drafts
        if not 0 <= draft < len(drafts) or drafts[draft].steps is not steps:
            raise HostError(
                f"expected the index of a draft with steps={steps} among {len(drafts)} drafts, "
                f"but got {draft}; see HostInfo.drafts"
            )

    def _sound_offers(self, offers: Sequence[Offer], num_requests: int) -> list[Offer]:
        for offer in offers:
            self._check_draft(offer.draft, steps=False)
        return self._guard.sound_offers(offers, num_requests)

    def _decide(self, look: Look) -> Plan:
        policy = self._policy or self._hire()
        self._guard.at_work = "decide"
        view, choice = look.view, look.choice
        draft_len = check_lengths(policy.decide(view), len(view.slots), self.max_draft_len)
        if not self.wants_confidence and len(self._host.drafts) > 1:
            choice = self._beliefs.rechoose(look, int(draft_len.max()))
        if self._host.ragged_ok:
            draft_len = np.minimum(draft_len, choice.limit)
        else:
            draft_len[:] = min(round(float(draft_len.mean())), int(choice.limit.min()))
        return Plan(self._num_steps, draft_len, choice.draft)

    def _hire(self) -> LengthPolicy:
        """The policy anew, after its bench: its state is not to be trusted."""
        self._guard.at_work = "admit"
        self._policy = self._policy_file.make_length_policy()
        self._policy.admit(np.flatnonzero(np.isfinite(self._admitted_at.values)).astype(np.int32))
        return self._policy

    def stop(
        self, step_id: int, rows: NDArray[np.intp], position: int, confidence: Floats
    ) -> Bools:
        """Which drafts end with the token at `position`.

        Asked before that token is drawn, for every position in turn; a draft that ended is not
        asked for again, nor is an offer.

        Args:
            step_id: of the plan.
            rows: (m,) rows of the plan whose drafts go on, ascending.
            position: 1 for the first drafted token.
            confidence: (m,) the draft's largest probability at `position`.

        Returns:
            (m,) True where nothing is drafted after `position`.
        """
        step = self._step
        look, survival = step.look, step.survival
        ends = np.ones(len(rows), np.bool_)
        if step.step_id != step_id or look is None or survival is None:
            return ends
        if position >= self.max_draft_len or look.frailty is None or look.log_acceptance is None:
            return ends
        started = self._clock()
        self._guard.at_work = "stop"
        try:
            # Rows in order and all there: a slice costs a fifth of an index array.
            index = slice(None) if len(rows) == len(survival) else rows
            cells = confidence_cells(confidence)
            acceptance = np.exp(look.frailty[:, index] * look.log_acceptance[:, cells])
            survival[index] = reached = survival[index] * acceptance[0]
            progress = Progress(look.view, rows, position, reached, acceptance[1])
            if self._policy is not None:
                ends = check_stops(self._policy.stop(progress), len(rows))
        except Exception as error:
            self._fail(error)
        step.decision_s += self._clock() - started
        return ends

    def observe(self, outcomes: Outcomes, cost: Cost | None = None) -> None:
        """Learn from a step; may be called late, or never, or with rows missing."""
        current = self._admitted_at.values[outcomes.slots] < outcomes.step_id
        accepted = np.zeros(0, np.int32)
        try:
            rows = self._guard.sound_outcomes(outcomes, current, self.max_draft_len)
            if rows is not None:
                accepted = rows.accepted
                self._learn(rows)
            if cost is not None:
                self._observe_cost(cost, accepted)
            if rows is not None and self._recording is not None:
                self._guard.at_work = "trace"
                self._record(rows, cost)
        except Exception as error:
            self._fail(error)

    def _learn(self, rows: Outcomes) -> None:
        self._beliefs.note(
            rows.slots,
            rows.proposed,
            rows.accepted,
            rows.observed,
            rows.confidence,
            rows.draft,
        )
        if self._policy is not None:
            self._guard.at_work = "learn"
            self._policy.learn(RoundResult(rows.slots, rows.proposed, rows.accepted))

    def _record(self, rows: Outcomes, cost: Cost | None) -> None:
        step = self._step
        present = step.step_id == rows.step_id and len(step.slots) == len(rows.slots)
        assert self._recording is not None
        self._recording.add(
            rows,
            cost,
            step.planned if present else None,
            step.context_len if present else None,
            step.num_waiting,
        )

    def _observe_cost(self, cost: Cost, accepted: Ints) -> None:
        step = self._step
        present = step.step_id == cost.step_id
        self._beliefs.observe_cost(cost, step.look if present else None, accepted)
        if present and step.decision_s > max(SLOW_DECISION_S, cost.step_s):
            self._guard.at_work = "overrun"
            raise BadAnswerError(f"a decision of {step.decision_s} s governed {cost.step_s} s")

    def read(self, slots: Ints, match: Floats, draft: int = 0) -> None:
        """What a draft would have proposed on settled text that it only read.

        Args:
            slots: (n,) distinct requests.
            match: (n, w) for consecutive tokens of each request's text: probability that the
                draft's proposal would have been accepted (0 or 1 under greedy decoding), NaN
                where there is no token.
            draft: which one, of those that step.
        """
        self._check_draft(draft, steps=True)
        if match.size == 0:
            return
        try:
            self._beliefs.read(slots, match, draft)
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
        self._check_draft(offer.draft, steps=False)
        try:
            keep = sound_rows(num_compared, num_matched, num_compared, self.max_draft_len)
            keep &= (offer.strength >= 0) & (offer.strength < NUM_STRENGTHS)
        except (TypeError, ValueError) as error:
            self._guard.count("offers", repr(error))
            return
        if not keep.all():
            self._guard.count("offers", "counts that cannot be true", int((~keep).sum()))
            offer = Offer(offer.draft, offer.draft_len[keep], offer.strength[keep])
            slots, num_matched, num_compared = slots[keep], num_matched[keep], num_compared[keep]
        try:
            self._beliefs.compare(slots, offer, num_matched, num_compared)
        except Exception as error:
            self._fail(error)

    def close(self) -> None:
        """Write out what is pending; hosts call it when they are done."""
        if self._recording is not None:
            self._recording.close()


def _open_recording(policy: PolicyFile, host: HostInfo) -> Recording | None:
    """A recording where the policy file asks for one."""
    if policy.trace is None:
        return None
    from flyball.controller.recording import Recording

    names = tuple(draft.name for draft in host.drafts)
    return Recording(policy.trace.dir, host.engine_id, names, f"{policy.length.policy}/1")
