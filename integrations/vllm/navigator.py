"""Which draft lengths an engine's steps are under, and for how long."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from flyball.controller.governor import Governor
from flyball.integrations.vllm.flight_log import FlightLog
from flyball.integrations.vllm.flights import Course
from flyball.integrations.vllm.hold import Hold
from flyball.integrations.vllm.traits import EngineTraits


class Navigator:
    """Keeps a course for some steps, and asks the governor for another when it has had its time.

    Args:
        traits: of the engine.
        governor: that decides.
        log: of the steps; what ended is handed in before the governor is asked.

    Attributes:
        hold: says for how long a course is kept.
    """

    def __init__(self, traits: EngineTraits, governor: Governor, log: FlightLog) -> None:
        self._traits = traits
        self._governor = governor
        self._log = log
        self._lengths = np.array(traits.draft_lens, np.int32)
        self._limit: int | None = None  # of draft lengths, when the plan was made
        self.hold = Hold()

    def course(self, scheduler: Any, num_tokens: Mapping[str, int]) -> Course:
        """The course for a step of these requests: the old one if it will do."""
        latest = self._log.latest
        lengths = {} if latest is None else latest.course.lengths
        alike = latest is not None and num_tokens.keys() == latest.num_tokens.keys()
        joined = [] if alike else [name for name in num_tokens if name not in lengths]
        if (
            self.hold.goes_on(len(joined), len(num_tokens))
            and self._governor.limits.draft_len == self._limit
            and latest is not None
            and (not joined or self._steps_in_room(scheduler, joined) >= self.hold.steps_left)
        ):
            if alike:
                return latest.course
            latest.course.join(joined)
            return self._fitted(latest.course, num_tokens)
        return self._replan(scheduler, num_tokens)

    def _fitted(self, course: Course, names: Iterable[str]) -> Course:
        """The course with as many draft steps as those who are there have a use for."""
        if not self._traits.per_step or course.plan_id is None:
            return course
        longest = max(map(course.lengths.__getitem__, names))
        most = self._traits.draft_lens[bisect_left(self._traits.draft_lens, longest)]
        return course if most == course.draft_len else replace(course, draft_len=most)

    def _steps_in_room(self, scheduler: Any, names: Iterable[str]) -> int:
        """Steps for which the drafter surely has room for all of these texts."""
        longest = max(scheduler.requests[name].num_tokens for name in names)
        # A step adds what was drafted and a token; some steps are on their way.
        per_step = self._traits.max_draft_len + 1
        room = (self._traits.drafter_max_len - longest) // per_step
        return int(room) - self._traits.feedback_delay - 1

    def _replan(self, scheduler: Any, num_tokens: Mapping[str, int]) -> Course:
        """Hand in what was learned, and ask the governor."""
        self._limit = self._governor.limits.draft_len
        self._log.hand_in()
        room = self._steps_in_room(scheduler, num_tokens)
        if room < 0:
            # The runner drafts nothing here, and fills in tokens that are no drafts.
            self.hold.pass_on()
            return Course(None, dict.fromkeys(num_tokens, 0), 0, 0.0)
        names, ledger = list(num_tokens), self._log.ledger
        ledger.admit(dict.fromkeys(names, self._log.oldest_plan()))
        plan = self._governor.plan(
            ledger.slots(names),
            context_len=np.array(
                [scheduler.requests[name].num_tokens for name in names], np.int32
            ),
            num_waiting=len(scheduler.waiting),
        )
        most = int(self._lengths[self._lengths.searchsorted(plan.draft_len.max(), "right") - 1])
        lengths = np.minimum(plan.draft_len, most)
        view = self._governor.view
        probing = view is not None and view.probe_len is not None
        self.hold.begin(len(names), 1 if probing else room + 1)
        return Course(
            plan.step_id,
            dict(zip(names, lengths.tolist(), strict=True)),
            most if self._traits.per_step else self._traits.max_draft_len,
            float(lengths.mean()),
        )
