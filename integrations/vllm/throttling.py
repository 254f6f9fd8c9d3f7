"""What a throttle is told of an engine's steps."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from flyball.controller.guard import Guard
from flyball.controller.metrics import ThrottleStatus
from flyball.controller.throttle import Throttle


class Throttling:
    """Tells a throttle what each step of an engine showed, and never raises.

    A step takes the seconds since the one before it ended, or since it was scheduled where the
    engine had nothing to do, as in `StepCosts`. A request's tokens of a step share its seconds.

    Args:
        throttle: that is told, on the scheduler's thread; it also sets the limits there.
        clock: seconds.
    """

    def __init__(self, throttle: Throttle, clock: Callable[[], float] = time.perf_counter) -> None:
        self.throttle = throttle
        self._clock = clock
        self._guard = Guard()
        self._busy_since_s: float | None = None  # None while the engine has nothing to do
        self._num_seen = self._num_accepted = 0

    @property
    def status(self) -> ThrottleStatus:
        """For metrics."""
        throttle = self.throttle
        faults = {**throttle.faults, **self._guard.faults}
        return ThrottleStatus(throttle.space.named(throttle.setting), throttle.num_windows, faults)

    def begin(self) -> None:
        """A step is scheduled."""
        if self._busy_since_s is None:
            self._busy_since_s = self._clock()

    def count(self, num_proposed: int, num_accepted: int) -> None:
        """The engine counts what was proposed for a request and accepted."""
        self._num_seen += min(num_accepted + 1, num_proposed)
        self._num_accepted += min(num_accepted, num_proposed)

    def end(self, scheduler: Any, answers: Mapping[int, Any]) -> None:
        """The engine took in a step's output.

        Args:
            scheduler: of the engine.
            answers: what it made of the output for its clients.
        """
        now_s, since_s = self._clock(), self._busy_since_s
        num_seen, num_accepted = self._num_seen, self._num_accepted
        self._num_seen = self._num_accepted = 0
        try:
            self._busy_since_s = now_s if scheduler.running else None
            if since_s is None:
                return
            outputs = (one for answer in answers.values() for one in answer.outputs)
            lengths = [len(one.new_token_ids) for one in outputs if one.new_token_ids]
            step_s, counts = now_s - since_s, np.array(lengths, np.intp)  # (requests,)
            self.throttle.observe(
                int(counts.sum()),
                step_s,
                len(counts),
                np.repeat(step_s / counts, counts),
                num_waiting=len(scheduler.waiting),
                num_seen=num_seen,
                num_accepted=num_accepted,
                settled=max(len(counts), len(scheduler.running)) <= scheduler.max_num_active_reqs,
            )
        except Exception as error:
            self._guard.count("host", repr(error))

    def close(self) -> None:
        """Put everything back as it was."""
        try:
            self.throttle.close()
        except Exception as error:
            self._guard.count("host", repr(error))
