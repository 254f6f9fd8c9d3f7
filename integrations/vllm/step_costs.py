"""Seconds of rounds, from the seconds of the engine steps that they are spread over.

A round's draft is made in one step and verified in the next, which drafts for the round after and
may read prompts. As long as the parts of a step are not told apart, only steps that verify as
much as they draft, and read no prompt, say what a round costs.
"""

from __future__ import annotations

from flyball.controller.contract import Cost
from flyball.estimators.step_split import StepSplit
from flyball.integrations.vllm.flights import Flight


class StepCosts:
    """Turns the ends of engine steps into costs of rounds."""

    def __init__(self) -> None:
        self._split = StepSplit()
        self._busy_since_s: float | None = None  # None while the engine has nothing to do

    def cost(self, flight: Flight) -> Cost | None:
        """The cost of the round that this step verified, if it can be told.

        Steps come in order, and every step once.
        """
        start_s = flight.started_s if self._busy_since_s is None else self._busy_since_s
        self._busy_since_s = None if flight.idle_after else flight.ended_s
        load, step_s = flight.load(), flight.ended_s - start_s
        if load.batch_size == 0 or step_s <= 0.0:
            return None
        token_s = self._split.token_s(load.batch_size)
        self._split.update(load, step_s)
        before = flight.before
        if before is None or before.plan_id is None:
            return None
        draft_s = verify_s = None
        if token_s is not None:
            elsewhere_s = token_s[0] * load.draft_len + token_s[1] * load.num_prefill_tokens
            # What is not drafting or prefill is verification, a tenth of the step at least.
            verify_s = max(step_s - elsewhere_s, 0.1 * step_s)
            draft_s = token_s[0] * before.draft_len
            step_s = verify_s + draft_s
        elif load.num_prefill_tokens > 0 or before.draft_len != load.draft_len:
            return None
        return Cost(
            step_id=before.plan_id,
            step_s=step_s,
            batch_size=load.batch_size,
            verify_len=1 + round(before.mean_len),
            num_draft_steps=before.draft_len,
            draft_s=draft_s,
            verify_s=verify_s,
        )
