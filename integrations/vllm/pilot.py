"""The governor at the controls of an engine's scheduler.

The scheduler calls these methods around its own; none of them raises. What goes wrong here costs
the adaptive gain alone: the engine goes on with its own draft lengths, and the governor is tried
again after a pause.
"""

from __future__ import annotations

import math
import time
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flyball.controller.governor import Governor
from flyball.controller.guard import Guard
from flyball.controller.metrics import Mode, Status
from flyball.controller.policy_file import PolicyFile
from flyball.integrations.vllm.flights import Counts, Course, Flight, Sureness, history_of
from flyball.integrations.vllm.hold import Hold
from flyball.integrations.vllm.ledger import Ledger
from flyball.integrations.vllm.metrics import Publisher
from flyball.integrations.vllm.step_costs import StepCosts
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
        num_rounds: rounds of requests that were learned from, with a draft or without.
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
        self.num_rounds = self.num_proposed = self.num_accepted = self.num_steps = 0
        self.decision_s = self.draft_len = 0.0
        self.throttling: Throttling | None = None
        self._clock = clock
        self.guard = Guard()
        self._lengths = np.array(traits.draft_lens, np.int32)
        self._finds_less = traits.may_find_less and not traits.asynchronous
        self._publisher = Publisher(str(traits.engine))
        self._publish()
        self._start_anew()

    def _start_anew(self) -> None:
        self._ledger = Ledger(self.governor)
        self._costs = StepCosts(self.traits.per_step)
        self._flights: deque[Flight] = deque()
        self._landed: list[Flight] = []
        self._latest: Flight | None = None
        self._counts: Counts = {}
        self._found: tuple[list[str], list[int]] | None = None
        self._sure: Sureness | None = None
        self._hold = Hold()
        self._limit: int | None = None  # of draft lengths, when the plan was made

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
        return self._latest.course if self._latest is not None and self.active else None

    def _fail(self, error: Exception) -> None:
        self.guard.count("host", repr(error))
        self.guard.bench(self.num_steps)
        try:
            self._ledger.close()
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
        course = self._steer(scheduler, num_tokens)
        drafts = output.scheduled_spec_decode_tokens
        began = output.scheduled_cached_reqs.resumed_req_ids
        if output.scheduled_new_reqs:  # vLLM's second model runner gets those that come back so
            began = began.union(new.req_id for new in output.scheduled_new_reqs)
        self._latest = Flight(
            output,
            self._latest,
            course,
            output.total_num_scheduled_tokens,
            num_tokens,
            {name: len(draft) for name, draft in drafts.items()},
            self._found,
            self._sure,
            began,
            now_s,
        )
        self._flights.append(self._latest)
        self._found = self._sure = None
        if self.traits.per_step:
            output.num_spec_tokens_to_schedule = course.draft_len

    def _steer(self, scheduler: Any, num_tokens: Mapping[str, int]) -> Course:
        """The course for this step: the old one if it will do."""
        course = self._course
        lengths = course.lengths if course is not None else {}
        joined = [name for name in num_tokens if name not in lengths]
        if (
            self._hold.goes_on(len(joined), len(num_tokens))
            and self.governor.limits.draft_len == self._limit
            and course is not None
            and self._latest is not None
            and (not joined or self._steps_in_room(scheduler, joined) >= self._hold.steps_left)
        ):
            if num_tokens.keys() != self._latest.num_tokens.keys():
                course.join(joined)
                course = self._fitted(course, num_tokens)
            return course
        return self._replan(scheduler, num_tokens)

    def _fitted(self, course: Course, names: Iterable[str]) -> Course:
        """The course with as many draft steps as those who are there have a use for."""
        if not self.traits.per_step or course.plan_id is None:
            return course
        longest = max(map(course.lengths.__getitem__, names))
        most = self.traits.draft_lens[bisect_left(self.traits.draft_lens, longest)]
        return course if most == course.draft_len else replace(course, draft_len=most)

    def _steps_in_room(self, scheduler: Any, names: Iterable[str]) -> int:
        """Steps for which the drafter surely has room for all of these texts."""
        longest = max(scheduler.requests[name].num_tokens for name in names)
        # A step adds what was drafted and a token; some steps are on their way.
        per_step = self.traits.max_draft_len + 1
        room = (self.traits.drafter_max_len - longest) // per_step
        return int(room) - self.traits.feedback_delay - 1

    def _replan(self, scheduler: Any, num_tokens: Mapping[str, int]) -> Course:
        """Hand in what was learned, and ask the governor."""
        self._limit = self.governor.limits.draft_len
        self._hand_in()
        room = self._steps_in_room(scheduler, num_tokens)
        if room < 0:
            # The runner drafts nothing here, and fills in tokens that are no drafts.
            self._hold.pass_on()
            self.draft_len = 0.0
            return Course(None, dict.fromkeys(num_tokens, 0), 0, 0.0)
        names = list(num_tokens)
        self._ledger.admit(dict.fromkeys(names, self._oldest_plan()))
        plan = self.governor.plan(
            self._ledger.slots(names),
            context_len=np.array(
                [scheduler.requests[name].num_tokens for name in names], np.int32
            ),
            num_waiting=len(scheduler.waiting),
        )
        most = int(self._lengths[self._lengths.searchsorted(plan.draft_len.max(), "right") - 1])
        lengths = np.minimum(plan.draft_len, most)
        view = self.governor.view
        probing = view is not None and view.probe_len is not None
        self._hold.begin(len(names), 1 if probing else room + 1)
        self.draft_len = float(lengths.mean())
        return Course(
            plan.step_id,
            dict(zip(names, lengths.tolist(), strict=True)),
            most if self.traits.per_step else self.traits.max_draft_len,
            self.draft_len,
        )

    def _oldest_plan(self) -> int:
        """The earliest plan whose drafts are still to be told of, or the next one.

        Requests that joined under it, and are admitted only now, have a part in it.
        """
        courses = [flight.before for flight in self._flights]
        if self._latest is not None:
            courses.append(self._latest.course)
        ids = (course.plan_id for course in courses if course is not None)
        known = (plan_id for plan_id in ids if plan_id is not None)
        return next(known, self.governor.num_steps + 1)

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
            names = list(names)  # the engine may go on using its own
            given = list(map(len, drafts))
            if self._finds_less:
                self._found = (names, given)
            lengths = course.rows(names)
            if confidence is not None and self.governor.wants_confidence:
                lengths = self._trimmed(course, names, lengths, confidence)
            cut = zip(drafts, given, lengths, strict=True)
            drafts = [draft if found <= most else draft[:most] for draft, found, most in cut]
        except Exception as error:
            self._fail(error)
        self.decision_s += self._clock() - started_s
        return drafts

    def _trimmed(
        self, course: Course, names: list[str], lengths: list[int], confidence: Floats
    ) -> list[int]:
        """Lengths without what the drafter was too unsure of; as planned for who joined since."""
        if course.plan_id is None or not course.draft_len:
            return lengths
        which, rows = course.planned(names)
        trimmed, foreseen = np.array(lengths, np.int32), np.full(len(names), np.nan)
        np.minimum(trimmed, confidence.shape[1], out=trimmed)
        trimmed[which], foreseen[which] = self.governor.trim(
            course.plan_id, rows, trimmed[which], confidence[which]
        )
        self._sure = Sureness(names, confidence, trimmed, foreseen)
        return list(trimmed.tolist())

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
            flight = self._land(output)
            if flight is not None:
                flight.ended_s, flight.idle_after = started_s, idle
                flight.counts, flight.answers = counts, answers
                self._landed.append(flight)
            if idle and self._landed:
                self._hand_in()
            if idle or self._publisher.wanted:
                self._publish()
        except Exception as error:
            self._fail(error)
        self.decision_s += self._clock() - started_s

    def _land(self, output: Any) -> Flight | None:
        """The step of this output; None where it was empty, or planned before a pause."""
        for position, flight in enumerate(self._flights):
            if flight.output is output:
                for _ in range(position + 1):  # the engine dropped those before it
                    self._flights.popleft()
                flight.output = None
                return flight
        return None

    def _hand_in(self) -> None:
        """Tell the governor what the steps showed that ended since the last time."""
        landed, self._landed = self._landed, []
        if landed:
            costs = [self._costs.cost(flight) for flight in landed]
            history = history_of(landed, costs, self._ledger)
            self.num_rounds += sum(history.num_rows)
            self.governor.observe_many(history)
        self._ledger.settle()
        for flight in landed:  # or every step would keep alive all that came before it
            flight.previous = None

    def free(self, name: str) -> None:
        """The engine is done with a request."""
        if self.active:
            self._ledger.free(name)

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
        for finish in (self._hand_in, self._publish, self.governor.close):
            try:
                finish()
            except Exception as error:
                self._fail(error)
        self._publisher.close()
