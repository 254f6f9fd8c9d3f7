"""What is learned of a round: what its outcome, its cost and its bystanders showed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from flyball.controller.beliefs import Beliefs
from flyball.controller.contract import Bools, Cost, Floats, HostInfo, Ints, Offer, Outcomes
from flyball.controller.cost_table import CostTable
from flyball.controller.ensemble import Ensemble
from flyball.controller.guard import SLOW_DECISION_S, BadAnswerError, Guard, Plans
from flyball.controller.history import History
from flyball.controller.recording import Recording
from flyball.controller.seat import Seat
from flyball.controller.shadows import Shadows
from flyball.controller.steps import Steps
from flyball.estimators.slots import SlotPool
from flyball.policies.length.base import RoundResult

Rows = NDArray[np.intp]


class Learner:
    """Hands what a host saw to whoever learns from it, without what cannot be true.

    It raises what they raise, and says in `guard.at_work` whose turn it is.

    Args:
        host: what the host can do.
        guard: counts what makes no sense.
        pool: of the slots that are taken.
        seat: of the length policy, and of the shadows.
        steps: whose outcomes are still to come.
        beliefs: about drafts and costs.
        ensemble: learns about its members; None without one.
        recording: of the rounds; None without one.
        costs: what steps are taken to cost, whatever they took; None to learn it.
    """

    def __init__(
        self,
        host: HostInfo,
        guard: Guard,
        pool: SlotPool,
        seat: Seat,
        steps: Steps,
        beliefs: Beliefs,
        ensemble: Ensemble | None,
        recording: Recording | None,
        costs: CostTable | None,
    ) -> None:
        self._host = host
        self._guard = guard
        self._pool = pool
        self._seat = seat
        self._steps = steps
        self._beliefs = beliefs
        self._ensemble = ensemble
        self._recording = recording
        self._costs = costs

    def observe(self, outcomes: Outcomes, cost: Cost | None) -> None:
        """Learn from a step."""
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

    def observe_many(self, history: History) -> None:
        """Learn from several rounds at once."""
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

    def _priced(self, cost: Cost | None) -> Cost | None:
        if cost is None or self._costs is None:
            return cost
        asks = self._seat.wants_confidence and self._host.mid_draft_stop
        return self._costs.priced(cost, asks)

    def _record(self, rows: Outcomes, cost: Cost | None) -> None:
        if self._recording is not None:
            self._guard.at_work = "trace"
            self._recording.add(rows, cost, self._steps.find(rows.step_id))

    def _sound(self, outcomes: Outcomes, plans: Callable[[], Plans]) -> Bools | None:
        self._guard.at_work = "outcomes"
        return self._guard.sound_outcomes(outcomes, plans, self._pool, self._seat.max_draft_len)

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
        draft: int,
        confidence: Floats | None,
        entropy: Floats | None,
    ) -> None:
        """What a draft would have proposed on settled text; see `Governor.read`."""
        num_slots = self._pool.num_slots
        if (
            not self._guard.sound_reading(slots, match, (confidence, entropy), num_slots)
            or match.size == 0
        ):
            return
        if match.shape[1] > 1:  # a single one is what a round left over, for shadows alone
            self._beliefs.read(slots, match, draft)
        if self._seat.shadows is not None:
            self._guard.at_work = "shadows"
            self._seat.shadows.read(slots, match, confidence, entropy)

    def compare(self, slots: Ints, offer: Offer, num_matched: Ints, num_compared: Ints) -> None:
        """How an offer would have done; see `Governor.compare`."""
        sound = self._guard.sound_comparison(
            slots, offer, num_matched, num_compared, self._pool.num_slots, self._seat.max_draft_len
        )
        if sound is not None:
            self._beliefs.compare(*sound)

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
        """What a round showed of the ensemble's members; see `Governor.weigh`."""
        if self._ensemble is None:
            return
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
