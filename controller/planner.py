"""What is decided of a round: lengths and weights before it, where drafts end in it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from flyball.controller.beliefs import Beliefs
from flyball.controller.contract import Bools, Floats, HostInfo, Ints, Offer, Plan
from flyball.controller.ensemble import Ensemble
from flyball.controller.guard import Guard, check_lengths, check_stops
from flyball.controller.look import Look
from flyball.controller.seat import Seat
from flyball.controller.steps import Step

Rows = NDArray[np.intp]


class Planner:
    """Asks whoever is seated, with what is believed.

    It raises what they raise, and says in `guard.at_work` whose turn it is.

    Args:
        host: what the host can do.
        guard: told whose turn it is.
        seat: of the length policy.
        beliefs: that a round is seen by.
        ensemble: sets weights; None without one.
    """

    def __init__(
        self,
        host: HostInfo,
        guard: Guard,
        seat: Seat,
        beliefs: Beliefs,
        ensemble: Ensemble | None,
    ) -> None:
        self._host = host
        self._guard = guard
        self._seat = seat
        self._beliefs = beliefs
        self._ensemble = ensemble
        drafts = host.drafts
        self._picks = len(drafts) > 1 or not all(draft.steps for draft in drafts)

    def plan(
        self,
        step: Step,
        batch_size: int,
        offers: Sequence[Offer],
        room: Ints | None,
        sampled: bool,
    ) -> Plan:
        """Plan a step, which remembers what its plan was made from; see `Governor.plan`."""
        look = self._beliefs.look(step.slots, batch_size, offers, room)
        plan = self._decide(step.step_id, look)
        if self._ensemble is not None:
            self._guard.at_work = "ensemble"
            plan.weights = self._ensemble.decide(step.slots, sampled)
            plan.wanted = self._ensemble.wanted(sampled)
        step.look, step.propensity = look, self._seat.propensity
        return plan

    def _decide(self, step_id: int, look: Look) -> Plan:
        seat = self._seat
        if seat.policy is None:
            self._guard.at_work = "admit"
            seat.hire()
        self._guard.at_work = "decide"
        view, choice = look.view, look.choice
        draft_len = check_lengths(seat.decide(view), len(view.slots), seat.max_draft_len)
        if self._picks and not seat.wants_confidence:
            choice = self._beliefs.rechoose(look, int(draft_len.max()))
        if self._host.ragged_ok:
            draft_len = np.minimum(draft_len, choice.limit)
        else:
            draft_len[:] = min(round(float(draft_len.mean())), int(choice.limit.min()))
        return Plan(step_id, draft_len, choice.draft)

    def stop(
        self, step: Step, rows: Rows, position: int, confidence: Floats, entropy: Floats | None
    ) -> Bools:
        """Which drafts of a step end with the token at `position`; see `Governor.stop`."""
        self._guard.at_work = "stop"
        progress = step.advance(rows, position, confidence, entropy)
        if position == 1 and step.look is not None:
            progress.overdue = self._beliefs.overdue(step.look.way)
        return check_stops(self._seat.ask(progress), len(rows))

    def trim(
        self, step: Step, rows: Rows, draft_len: Ints, confidence: Floats
    ) -> tuple[Ints, Floats]:
        """How many tokens of a step's finished drafts to verify; see `Governor.trim`."""
        self._guard.at_work = "stop"
        policy, look = self._seat.policy, step.look
        if policy is None or look is None or not (policy.still or look.can_save(draft_len)):
            return draft_len, np.full(len(rows), np.nan)
        overdue = self._beliefs.overdue(look.way)
        return step.trim(self._seat.ask, rows, draft_len, confidence, overdue)
