"""Seconds of engine steps."""

from __future__ import annotations

from flyball.controller.contract import Cost
from flyball.integrations.vllm.flights import Flight


class StepCosts:
    """Turns the ends of engine steps into their costs.

    Args:
        per_step: whether the drafter runs a step for each token that it is asked for.
    """

    def __init__(self, per_step: bool) -> None:
        self._per_step = per_step
        self._busy_since_s: float | None = None  # None while the engine has nothing to do

    def cost(self, flight: Flight) -> Cost | None:
        """What this step cost; None where nothing was decoded.

        Steps come in order, and every step once.
        """
        start_s = flight.started_s if self._busy_since_s is None else self._busy_since_s
        self._busy_since_s = None if flight.idle_after else flight.ended_s
        num_decoding, num_verified = flight.decoding()
        plan_id, step_s = flight.course.plan_id, flight.ended_s - start_s
        if num_decoding == 0 or step_s <= 0.0 or plan_id is None:
            return None
        return Cost(
            step_id=plan_id,
            step_s=step_s,
            batch_size=num_decoding,
            verify_len=num_verified / num_decoding,
            num_draft_steps=flight.course.draft_len if self._per_step else 0,
            num_prefill=flight.total - num_verified,
        )
