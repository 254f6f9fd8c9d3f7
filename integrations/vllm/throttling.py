"""What a throttle is told of an engine's steps."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flyball.controller.guard import Guard
from flyball.controller.metrics import ThrottleStatus
from flyball.controller.throttle import Throttle

Ints = NDArray[np.integer]

_GONE = 64  # requests that may be gone unnoticed


class Throttling:
    """Tells a throttle what each step of an engine showed, and never raises.

    A step takes the seconds since the one before it ended, or since it was scheduled where the
    engine had nothing to do, as in `StepCosts`.

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
        self._streams = _Streams()

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
            slots, counts = self._streams.of(answers, len(scheduler.requests))
            self.throttle.observe(
                int(counts.sum()),
                now_s - since_s,
                len(counts),
                (slots, counts),
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


class _Streams:
    """Slots of an engine's requests, by what it tells its clients."""

    def __init__(self) -> None:
        self._slots: dict[str, int] = {}
        self._free: list[int] = []

    def of(self, answers: Mapping[int, Any], num_requests: int) -> tuple[Ints, Ints]:
        """Slots (requests,) of those that got tokens in a step, and how many (requests,).

        Args:
            answers: what the engine made of the step for its clients.
            num_requests: that it has; nothing tells of those that clients gave up.
        """
        if len(self._slots) > 2 * num_requests + _GONE:
            self._slots.clear()
            self._free.clear()
        slots, counts = list[int](), list[int]()
        for answer in answers.values():
            for one in answer.outputs:
                slot = self._slots.get(one.request_id)
                if slot is None:
                    slot = self._free.pop() if self._free else len(self._slots)
                    self._slots[one.request_id] = slot
                if one.new_token_ids:
                    slots.append(slot)
                    counts.append(len(one.new_token_ids))
                if one.finish_reason is not None:
                    self._free.append(self._slots.pop(one.request_id))
        return np.array(slots, np.int64), np.array(counts, np.int64)
