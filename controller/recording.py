"""What the governor keeps of each request so that its rounds can be recorded."""

from __future__ import annotations

import time

import numpy as np
from numpy.typing import NDArray

from flyball.controller.contract import Cost, HostInfo, Outcomes
from flyball.controller.policy_file import PolicyFile
from flyball.controller.steps import Step
from flyball.estimators.slots import SlotArray

Ints = NDArray[np.int32]


class Recording:
    """Hands every round to a trace recorder.

    Rounds whose outcome comes late, or with rows missing, are recorded with what is known.

    Args:
        directory: of the trace.
        engine_id: name of the engine.
        drafts: their names.
    """

    def __init__(self, directory: str, engine_id: str, drafts: tuple[str, ...]) -> None:
        # Traces need pyarrow, which is not loaded for anything else.
        from flyball.controller.trace import TraceRecorder
        from flyball.controller.trace_format import TraceRound

        self._round = TraceRound
        self._recorder = TraceRecorder(directory, engine_id, drafts)
        self._policy = ""
        self._num_requests = 0
        self._request = SlotArray(0, np.int64)
        self._position = SlotArray(0, np.int32)

    def admit(self, slots: Ints) -> None:
        """New requests take these slots (n,)."""
        for array in (self._request, self._position):
            array.reset(slots)
        self._request.values[slots] = self._num_requests + np.arange(len(slots))
        self._position.values[slots] = 1  # the prompt's reading makes the first token
        self._num_requests += len(slots)

    def add(self, outcomes: Outcomes, cost: Cost | None, step: Step | None) -> None:
        """Record what a round showed.

        Args:
            outcomes: of the round (n,).
            cost: of the round; its seconds are NaN where they are no measure.
            step: as it was planned, if it is remembered.
        """
        planned, context_len, propensity = None, None, np.nan
        if step is not None:
            self._policy = step.policy
        if step is not None and np.array_equal(step.slots, outcomes.slots):
            planned, context_len = step.planned, step.context_len
            propensity = step.propensity
        slots, proposed = outcomes.slots, outcomes.proposed
        position = self._position.values[slots]
        self._position.values[slots] = position + outcomes.gained + 1
        draft = np.int32(0) if outcomes.draft is None else outcomes.draft
        widest = int(proposed.max(initial=0)) + 1
        self._recorder.add(
            self._round(
                time_s=time.time(),
                step_id=outcomes.step_id,
                policy=self._policy,
                batch_size=len(slots) if cost is None else cost.batch_size,
                num_waiting=0 if step is None else step.num_waiting,
                request=self._request.values[slots],
                position=position,
                context_len=np.zeros_like(slots) if context_len is None else context_len,
                draft=np.where(proposed > 0, draft, np.int32(-1)),
                planned=proposed if planned is None else planned,
                proposed=proposed,
                accepted=outcomes.accepted,
                observed=outcomes.observed,
                confidence=outcomes.confidence,
                propensity=np.full(len(slots), propensity),
                verify_len=widest if cost is None else round(cost.verify_len),
                num_draft_steps=0 if cost is None else cost.num_draft_steps,
                step_s=np.nan if cost is None else cost.step_s,
                draft_s=None if cost is None else cost.draft_s,
                verify_s=None if cost is None else cost.verify_s,
                num_prefill=0 if cost is None else cost.num_prefill,
            )
        )

    def close(self) -> None:
        """Write out what is pending."""
        self._recorder.close()


def open_recording(policy: PolicyFile, host: HostInfo) -> Recording | None:
    """A recording where the policy file asks for one."""
    if policy.trace is None:
        return None
    names = tuple(draft.name for draft in host.drafts)
    return Recording(policy.trace.dir, host.engine_id, names)
