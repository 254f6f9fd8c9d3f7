"""The governor: the only object that a host talks to."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flyball.controller.policy_file import PolicyFile
from flyball.controller.price import PriceCorrection, Quote, quote
from flyball.estimators.acceptance import (
    CONFIDENCE_PRIOR,
    FLAT_PRIOR,
    AcceptanceEstimator,
    confidence_cells,
)
from flyball.estimators.cost import CostEstimator
from flyball.estimators.slots import SlotArray
from flyball.policies.length.base import Progress, RoundResult, View

Floats = NDArray[np.float64]
Ints = NDArray[np.int32]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class HostInfo:
    """What a host can do.

    Attributes:
        engine_id: name of the engine, for logs.
        max_draft_len: largest draft length that it can run.
        ragged_ok: whether requests of one step may have different lengths.
        padded: whether verification runs on a rectangle, so that the longest draft sets its cost.
        mid_draft_stop: whether it asks `stop` while it drafts.
    """

    engine_id: str
    max_draft_len: int = 64
    ragged_ok: bool = True
    padded: bool = True
    mid_draft_stop: bool = True


@dataclass(frozen=True)
class Plan:
    """The decision for one step.

    Attributes:
        step_id: to be given back with the outcome.
        draft_len: (n,) tokens to draft for each request.
    """

    step_id: int
    draft_len: Ints


@dataclass(frozen=True)
class Outcomes:
    """Ground truth of one step; rows may be missing.

    Attributes:
        step_id: of the plan.
        slots: (n,) requests.
        proposed: (n,) drafted tokens that the target verified.
        accepted: (n,) of them accepted.
        observed: (n,) positions whose outcome was seen; never beyond the first rejection.
        confidence: (n, >= observed) the draft's largest probability by position, if known.
    """

    step_id: int
    slots: Ints
    proposed: Ints
    accepted: Ints
    observed: Ints
    confidence: Floats | None = None


@dataclass(frozen=True)
class Cost:
    """Seconds of one step.

    Attributes:
        step_id: of the plan.
        step_s: the whole step.
        batch_size: rows that the forwards ran over.
        verify_len: tokens verified for each request, padding included.
        num_draft_steps: forwards of the draft that proposed a token.
        draft_s: seconds in the draft, if known.
        verify_s: seconds in the verification, if known.
    """

    step_id: int
    step_s: float
    batch_size: int
    verify_len: int
    num_draft_steps: int
    draft_s: float | None = None
    verify_s: float | None = None


@dataclass
class _Step:
    """What the governor remembers of the step it planned last."""

    step_id: int
    view: View
    quoted: Quote
    frailty: Floats  # of the present token, from its confidence (n,)
    next_frailty: Floats  # of the next token, from the present one's confidence (n,)
    log_survival: Floats  # (n,)


class Governor:
    """Plans draft lengths and learns from outcomes.

    Requests live in integer slots: `admit` hands them out, `release` takes them back. A round is
    `plan`, then `stop` in mid-draft where the host can, then `observe`. `read` takes in what the
    draft would have proposed on text that it only read. Everything is vectorised over requests,
    and memory is bounded by the number of requests alive at once.

    Args:
        policy: validated policy file.
        host: what the host can do.
    """

    def __init__(self, policy: PolicyFile, host: HostInfo) -> None:
        self._host = host
        self._policy = policy.make_length_policy()
        self.max_draft_len = min(policy.length.max_draft_len, host.max_draft_len)
        self._positions = np.arange(self.max_draft_len)
        self._by_position = AcceptanceEstimator(np.full(self.max_draft_len, FLAT_PRIOR))
        self._by_confidence = AcceptanceEstimator(CONFIDENCE_PRIOR)
        # Of the token after: half way from this token's confidence to no knowledge.
        self._after_confidence = AcceptanceEstimator((CONFIDENCE_PRIOR + FLAT_PRIOR) / 2)
        self._cost = CostEstimator(self.max_draft_len)
        self._correction = PriceCorrection()
        self._free: list[int] = []
        self._num_slots = 0
        self._admitted_at = SlotArray(np.inf)  # step of admission; infinite while free
        self._match_run = SlotArray(0, np.int64)  # tokens matched since the last miss
        self._num_steps = 0
        self._step: _Step | None = None

    def admit(self, num_requests: int) -> Ints:
        """Slots (num_requests,) for new requests."""
        reused = [self._free.pop() for _ in range(min(num_requests, len(self._free)))]
        fresh = range(self._num_slots, self._num_slots + num_requests - len(reused))
        self._num_slots += len(fresh)
        slots = np.array([*reused, *fresh], np.int32)
        for array in (self._admitted_at, self._match_run):
            array.reset(slots)
        for estimator in (self._by_position, self._by_confidence, self._after_confidence):
            estimator.admit(slots)
        self._admitted_at.values[slots] = self._num_steps
        self._policy.admit(slots)
        return slots

    def release(self, slots: Ints) -> None:
        """Take slots back; feedback for them that comes later is ignored."""
        live = slots[np.isfinite(self._admitted_at.values[slots])]
        self._admitted_at.values[live] = np.inf
        self._free.extend(live.tolist())

    def plan(self, slots: Ints, batch_size: int | None = None) -> Plan:
        """Draft lengths for the coming round of these requests.

        Args:
            slots: (n,) requests.
            batch_size: rows that the forwards run over, where finished ones still take part;
                n by default.
        """
        view, quoted = self._look(slots, batch_size or max(1, len(slots)))
        draft_len = self._policy.decide(view)
        if not self._host.ragged_ok and len(slots):
            draft_len = np.full_like(draft_len, round(float(draft_len.mean())))
        self._num_steps += 1
        self._step = _Step(
            self._num_steps,
            view,
            quoted,
            self._by_confidence.frailty(slots),
            self._after_confidence.frailty(slots),
            np.zeros(len(slots)),
        )
        return Plan(self._num_steps, draft_len)

    def _look(self, slots: Ints, batch_size: int) -> tuple[View, Quote]:
        survival = self._by_position.acceptance(slots, self._positions).cumprod(axis=1)
        round_s = self._cost.round_s(batch_size)
        if np.isnan(round_s[0]) or len(slots) == 0:
            quoted = Quote(np.nan, 0, np.ones(len(slots)))
        else:
            quoted = quote(survival, round_s)
        view = View(
            slots=slots,
            max_draft_len=self.max_draft_len,
            can_stop=self._host.mid_draft_stop,
            padded=self._host.padded,
            survival=survival,
            round_s=round_s,
            price=quoted.price * self._correction.factor,
            weight=quoted.weight,
            best_len=quoted.draft_len,
            probe_len=self._cost.next_probe(batch_size),
        )
        return view, quoted

    @property
    def wants_confidence(self) -> bool:
        """Whether `stop` is worth asking."""
        return self._policy.stops and self._host.mid_draft_stop

    @property
    def wants_reading(self) -> bool:
        """Whether skipped text is worth reading while nothing is drafted."""
        return self._policy.reads

    def stop(
        self, step_id: int, rows: NDArray[np.intp], position: int, confidence: Floats
    ) -> Bools:
        """Which drafts end with the token at `position`.

        Asked before that token is drawn, for every position in turn; a draft that ended is not
        asked for again.

        Args:
            step_id: of the plan.
            rows: (m,) rows of the plan whose drafts go on.
            position: 1 for the first drafted token.
            confidence: (m,) the draft's largest probability at `position`.

        Returns:
            (m,) True where nothing is drafted after `position`.
        """
        step = self._step
        if step is None or step.step_id != step_id or position >= self.max_draft_len:
            return np.ones(len(rows), np.bool_)
        cells = confidence_cells(confidence)
        step.log_survival[rows] -= step.frailty[rows] * self._by_confidence.hazard[cells]
        next_hazard = step.next_frailty[rows] * self._after_confidence.hazard[cells]
        return self._policy.stop(
            Progress(
                view=step.view,
                rows=rows,
                position=position,
                survival=np.exp(step.log_survival[rows]),
                next_acceptance=np.exp(-next_hazard),
            )
        )

    def observe(self, outcomes: Outcomes, cost: Cost | None = None) -> None:
        """Learn from a step; may be called late, or never, or with rows missing."""
        current = self._admitted_at.values[outcomes.slots] < outcomes.step_id
        slots, accepted = outcomes.slots[current], outcomes.accepted[current]
        observed, proposed = outcomes.observed[current], outcomes.proposed[current]
        width = int(observed.max(initial=0))
        if width > 0:
            columns = np.arange(width)
            hit = (columns < accepted[:, None]).astype(np.float64)
            seen = columns < observed[:, None]
            self._by_position.update(slots, columns, hit, seen)
            if outcomes.confidence is not None:
                cells = confidence_cells(outcomes.confidence[current, :width])
                self._by_confidence.update(slots, cells, hit, seen)
                self._after_confidence.update(slots, cells[:, :-1], hit[:, 1:], seen[:, 1:])
        # The next token that the draft reads continues a draft that was accepted in full.
        drafted = proposed > 0
        run = np.where(observed == accepted, accepted, 0)
        self._match_run.values[slots[drafted]] = run[drafted]
        self._policy.learn(RoundResult(slots, proposed, accepted))
        if cost is not None:
            self._observe_cost(outcomes, cost)

    def _observe_cost(self, outcomes: Outcomes, cost: Cost) -> None:
        step = self._step
        self._cost.update(
            cost.batch_size,
            cost.verify_len,
            cost.num_draft_steps,
            cost.step_s,
            cost.draft_s,
            cost.verify_s,
        )
        if step is None or step.step_id != cost.step_id or step.view.probe_len is not None:
            return
        if len(outcomes.slots) == len(step.view.slots):
            num_tokens = float(step.quoted.weight @ (outcomes.accepted + 1.0))
            # An interrupted step says nothing about the policy.
            step_s = min(cost.step_s, 2.0 * float(step.view.round_s.max()))
            self._correction.update(num_tokens, step.quoted.price * step_s)

    def read(self, slots: Ints, match: Floats) -> None:
        """What the draft would have proposed on settled text that it only read.

        Args:
            slots: (n,) distinct requests.
            match: (n, w) for consecutive tokens of each request's text: probability that the
                draft's proposal would have been accepted (0 or 1 under greedy decoding), NaN
                where there is no token.
        """
        last = self.max_draft_len - 1
        for column in match.T:
            present = ~np.isnan(column)
            run = self._match_run.values[slots]
            cells = np.minimum(run, last)[:, None]
            self._by_position.update(slots, cells, column[:, None], present[:, None])
            hit = column > 0.5
            self._match_run.values[slots] = np.where(present, np.where(hit, run + 1, 0), run)

    def close(self) -> None:
        """Nothing is held open yet; hosts call it when they are done."""
