"""The governor at the controls of an engine's scheduler.

The scheduler calls these methods around its own; none of them raises. What goes wrong here costs
the adaptive gain alone: the engine goes on with its own draft lengths, and the governor is tried
again after a pause.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flyball.controller.governor import Governor
from flyball.controller.guard import Guard
from flyball.controller.metrics import Mode, Status
from flyball.controller.policy_file import PolicyFile
from flyball.integrations.vllm.cutter import Cutter
from flyball.integrations.vllm.flight_log import FlightLog
from flyball.integrations.vllm.flights import Counts, Course, Flight
from flyball.integrations.vllm.metrics import Publisher
from flyball.integrations.vllm.navigator import Navigator
from flyball.integrations.vllm.throttling import Throttling
from flyball.integrations.vllm.traits import EngineTraits

Floats = NDArray[np.float64]


class Pilot:
    """Plans the draft lengths of an engine's steps and learns from their outputs.

    A plan is kept for some steps, and what they showed is handed in with the next one: beliefs
    change slowly, and a step that leaves the plan alone costs a tenth of one that makes it.
    Requests that join in between draft like the average, until a quarter of the batch is new;
    where many join at once, the first plans for them are kept for few steps.

    Args:
        traits: of the engine.
        policy: to start with.
        governing: whether lengths are chosen; otherwise the engine's counts are kept, no more.
        clock: seconds.

    Attributes:
        governor: that decides.
        guard: counts faults.
        num_proposed: drafted tokens that the target verified, as the engine counts them.
        num_accepted: of them accepted, likewise.
        decision_s: seconds spent here, all told.
        num_steps: engine steps.
        draft_len: tokens planned for each request on average.
        throttling: what sets limits and hardware meanwhile, to be shown; None without.
    """

    def __init__(
        self,
        traits: EngineTraits,
        policy: PolicyFile,
        governing: bool = True,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.traits = traits
        self.governing = governing
        self.governor = Governor(policy, traits.host_info(), clock)
        self.num_proposed = self.num_accepted = self.num_steps = 0
        self.decision_s = self.draft_len = 0.0
        self.throttling: Throttling | None = None
        self._clock = clock
        self.guard = Guard()
        self._log = FlightLog(self.governor, traits.per_step)
        self._publisher = Publisher(str(traits.engine))
        self._publish()
        self._start_anew()

    def _start_anew(self) -> None:
        self._log.clear()
        self._navigator = Navigator(self.traits, self.governor, self._log)
        self._cutter = Cutter(self.traits, self.governor)
        self._counts: Counts = {}

    @property
    def num_rounds(self) -> int:
        """Rounds of requests that were learned from, with a draft or without."""
        return self._log.num_rounds

    @property
    def fallbacks(self) -> dict[str, int]:
        """How often each kind of fault happened."""
        return {**self.governor.faults, **self.guard.faults}

    @property
    def mode(self) -> Mode:
        """What it does at present."""
        return "governing" if self.active else "observing"

    @property
    def active(self) -> bool:
        """Whether lengths are being chosen."""
        return self.governing and not self.guard.benched(self.num_steps)

    @property
    def _course(self) -> Course | None:
        """The course in force; None where the engine drafts as it likes."""
        latest = self._log.latest
        return latest.course if latest is not None and self.active else None

    def _fail(self, error: Exception) -> None:
        self.guard.count("host", repr(error))
        self.guard.bench(self.num_steps)
        try:
            self._log.ledger.close()
        except Exception as another:
            self.guard.count("host", repr(another))
        self._start_anew()

    def plan(self, scheduler: Any, output: Any) -> None:
        """Choose what to draft in a step that was just scheduled, for the next to verify.

        Called before the scheduler takes note of what it scheduled.
        """
        self.num_steps += 1
        if not self.active:
            return
        started_s = self._clock()
        try:
            self._plan(scheduler, output, started_s)
        except Exception as error:
            self._fail(error)
        self.decision_s += self._clock() - started_s

    def _plan(self, scheduler: Any, output: Any, now_s: float) -> None:
        num_tokens = output.num_scheduled_tokens
        if not num_tokens:
            return
        course = self._navigator.course(scheduler, num_tokens)
        self.draft_len = course.mean_len
        drafts = output.scheduled_spec_decode_tokens
        began = output.scheduled_cached_reqs.resumed_req_ids
        if output.scheduled_new_reqs:  # vLLM's second model runner gets those that come back so
            began = began.union(new.req_id for new in output.scheduled_new_reqs)
        found, sure = self._cutter.take()
        self._log.start(
            Flight(
                output,
                self._log.latest,
                course,
                output.total_num_scheduled_tokens,
                num_tokens,
                {name: len(draft) for name, draft in drafts.items()},
                found,
                sure,
                began,
                now_s,
            )
        )
        if self.traits.per_step:
            output.num_spec_tokens_to_schedule = course.draft_len

    def hold(self, scheduler: Any, output: Any) -> None:
        """Make room for as many drafted tokens as are planned, where drafts stay in the worker.

        Called after the scheduler made room for the most.
        """
        course = self._course
        if course is None:
            return
        started_s = self._clock()
        try:
            for name in output.num_scheduled_tokens:
                request, length = scheduler.requests[name], course.lengths[name]
                if len(request.spec_token_ids) > length:
                    request.spec_token_ids = request.spec_token_ids[:length]
        except Exception as error:
            self._fail(error)
        self.decision_s += self._clock() - started_s

    def cut(
        self, names: list[str], drafts: list[list[int]], confidence: Floats | None = None
    ) -> list[list[int]]:
        """The finished drafts of a step, each as long as was planned before it was made.

        Or shorter, where the drafter was unsure.

        Args:
            names: of the requests.
            drafts: of each.
            confidence: (requests, tokens) largest probability of the drafter, if it is known.
        """
        course = self._course
        if course is None:
            return drafts
        started_s = self._clock()
        try:
            drafts = self._cutter.cut(course, names, drafts, confidence)
        except Exception as error:
            self._fail(error)
        self.decision_s += self._clock() - started_s
        return drafts

    def count(self, name: str, num_proposed: int, num_accepted: int) -> None:
        """The engine counts what was proposed for a request and accepted."""
        self.num_proposed += num_proposed
        self.num_accepted += num_accepted
        self._counts[name] = (num_proposed, num_accepted)

    def observe(self, scheduler: Any, output: Any, answers: Mapping[int, Any]) -> None:
        """Take in what became of a step, after the scheduler did.

        Args:
            scheduler: of the engine.
            output: of the scheduler, which tells the step.
            answers: what the scheduler made of the workers' output.
        """
        counts, self._counts = self._counts, {}
        started_s = self._clock()
        try:
            idle = not scheduler.running
            flight = self._log.land(output)
            if flight is not None:
                flight.ended_s, flight.idle_after = started_s, idle
                flight.counts, flight.answers = counts, answers
            if idle and self._log.landed:
                self._log.hand_in()
            if idle or self._publisher.wanted:
                self._publish()
        except Exception as error:
            self._fail(error)
        self.decision_s += self._clock() - started_s

    def free(self, name: str) -> None:
        """The engine is done with a request."""
        if self.active:
            self._log.ledger.free(name)

    def _publish(self) -> None:
        view = self.governor.view
        self._publisher.publish(
            Status(
                mode=self.mode,
                policy=self.governor.policy_name,
                draft_len=self.draft_len,
                price=math.nan if view is None else view.price,
                num_rounds=self.num_rounds,
                num_proposed=self.num_proposed,
                num_accepted=self.num_accepted,
                num_decisions=self.num_steps,
                decision_s=self.decision_s,
                fallbacks=self.fallbacks,
                num_rejected=self.governor.contests.num_stopped,
                throttle=None if self.throttling is None else self.throttling.status,
            )
        )

    def close(self) -> None:
        """Write out what is pending."""
        for finish in (self._log.hand_in, self._publish, self.governor.close):
            try:
                finish()
            except Exception as error:
                self._fail(error)
        self._publisher.close()
