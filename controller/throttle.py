"""Sets hardware while a host decodes: window by window, and off the decoding thread."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from queue import Empty, SimpleQueue

import numpy as np
from numpy.typing import NDArray

from flyball.controller.hardware import Actuator, Meter
from flyball.controller.lone_thread import LoneThread
from flyball.controller.throttle_desk import Ended, ThrottleDesk
from flyball.controller.throttle_window import WindowSums
from flyball.policies.throttle.base import ThrottlePolicy
from flyball.policies.throttle.space import Places

Ints = NDArray[np.integer]

WINDOW_S = 2.0
SHARE = 0.99


@dataclass(frozen=True)
class _Begun:
    """A window of this number begins, for the worker."""

    number: int


@dataclass(frozen=True)
class _Failed:
    """A setting could not be adopted for the window of this number, for the worker."""

    error: Exception
    number: int


class Throttle:
    """Runs a throttle policy beside a host, which calls `observe` after each step.

    Steps are summed up on the decoding thread. A window that ends goes to a worker thread, which
    reads the meter, lets the policy learn and decide, and sets the slow knobs. Meanwhile steps
    run on, and count in no window. The decoding thread finds the answer at a later step, sets
    the other knobs, and begins the next window: nothing ever waits. A limit that was lowered sends
    no request away; the window begins once enough of them have ended. The first window runs under
    what is in force where nobody governs. In a dry run all windows do.

    A fault of policy, actuator or meter costs the adaptive gain only: settings are restored, the
    fault is counted, the first of a kind logged, and the policy pauses for some windows.

    Args:
        policy: made for the actuator's space.
        actuator: sets what the policy decides; restored by `close`.
        meter: of the same device.
        window_s: seconds that a window takes at least.
        share: of token latencies that the SLO speaks of.
        clock: seconds.
        wait: whether steps do wait for the worker and the meter, so that replays and
            simulations adopt the same settings at the same steps.

    Attributes:
        space: of the settings.
        setting: (knobs,) in force.
        wanted: (knobs,) decided last; in force as well, unless the actuator is in a dry run.
        num_steps: observed.
        num_windows: that ended.
    """

    def __init__(
        self,
        policy: ThrottlePolicy,
        actuator: Actuator,
        meter: Meter,
        window_s: float = WINDOW_S,
        share: float = SHARE,
        clock: Callable[[], float] = time.perf_counter,
        wait: bool = False,
    ) -> None:
        self._desk = ThrottleDesk(policy, actuator, meter, share)
        self._window_s = window_s
        self._clock = clock
        self._wait = wait
        self._closed = False
        self._told: SimpleQueue[_Begun | Ended | _Failed | None] = SimpleQueue()
        self._answers: SimpleQueue[Places] = SimpleQueue()
        self._sums: WindowSums | None = None  # None until a window begins
        self._settling = False  # nothing else is missing for it
        self.space = self._desk.space
        self.setting = self.wanted = self.space.default
        self.num_steps = self.num_windows = 0
        self._worker = LoneThread(self._work, "flyball-throttle")
        self._worker.start()
        self._begin()

    @property
    def policy(self) -> ThrottlePolicy:
        """That decides; in use by the worker's thread."""
        return self._desk.policy

    @property
    def faults(self) -> dict[str, int]:
        """How often each kind of fault happened."""
        return self._desk.guard.faults

    def observe(
        self,
        num_tokens: int,
        step_s: float,
        batch_size: float,
        streams: tuple[Ints, Ints] | None = None,
        num_waiting: int = 0,
        num_seen: int = 0,
        num_accepted: int = 0,
        num_arrived: float | None = None,
        settled: bool = True,
    ) -> None:
        """Take in a step, and set what was decided since.

        Args:
            num_tokens: generated.
            step_s: seconds it took.
            batch_size: requests that took part.
            streams: slots (requests,) of those that took part, each once, and how many tokens
                (requests,) each got; left out, they share the tokens evenly.
            num_waiting: requests that wait to be let in.
            num_seen: drafted tokens of which is known whether they are right: none after a
                rejected one.
            num_accepted: of them accepted.
            num_arrived: tokens that were asked for since the step before, if that is known;
                those generated stand in. Infinite where requests wait all along.
            settled: whether no more requests took part than the limit in force lets run.
        """
        if self._closed:
            return
        self.num_steps += 1
        sums = self._sums
        if sums is None:
            self._look_on(settled)  # this step ran before
            return
        if not settled:
            self._sums, self._settling = None, True
            return
        try:
            numbers = (num_tokens, step_s, batch_size, num_seen, num_accepted)
            check_step(numbers, streams, num_arrived)
            sums.add(num_tokens, step_s, batch_size, streams, num_seen, num_accepted, num_arrived)
        except Exception as error:
            self._desk.guard.count("step", repr(error))
            return
        now_s = self._clock()
        if now_s - sums.began_s >= self._window_s:
            self._sums = None
            self.num_windows += 1
            self._told.put(Ended(self.num_windows, sums, now_s, num_waiting))
            if self._wait:
                self.catch_up()

    def catch_up(self) -> None:
        """Wait for the answer to the last window, if it is still to come, and adopt it."""
        if self._sums is None and not self._settling and not self._closed:
            self._adopt(wait=True)

    def _look_on(self, settled: bool) -> None:
        """Begin a window if nothing is missing for it any more."""
        if not self._settling:
            self._adopt(wait=False)
        elif settled:
            self._settling = False
            self._begin()

    def _adopt(self, wait: bool) -> None:
        """Set what the worker answered, if it has."""
        try:
            self.wanted = self._answers.get(block=wait)
        except Empty:
            return
        try:
            self._desk.put(self.wanted, slow=False)
        except Exception as error:
            self._told.put(_Failed(error, self.num_windows + 1))
            self.wanted = self.space.default
        if not self._desk.dry_run:
            self.setting = self.wanted
        self._begin()

    def _begin(self) -> None:
        number = self.num_windows + 1
        self._sums = WindowSums(self.setting, self._clock())
        if self._wait:
            self._desk.begin(number)
        else:
            self._told.put(_Begun(number))

    def _work(self) -> None:
        while (message := self._told.get()) is not None:
            if isinstance(message, Ended):
                self._answers.put(self._desk.end(message))
            elif isinstance(message, _Failed):
                self._desk.fail("actuator", message.error, message.number)
            else:
                self._desk.begin(message.number)

    def close(self) -> None:
        """Put back what was in force, and end the worker; steps are ignored from then on."""
        if self._closed:
            return
        self._closed = True
        # At once: what the worker is at may take seconds.
        self._desk.close()
        self._told.put(None)
        self._worker.join()


def check_step(
    numbers: tuple[float, ...], streams: tuple[Ints, Ints] | None, num_arrived: float | None
) -> None:
    """Refuse what cannot be true.

    Raises:
        ValueError: in one line.
    """
    if not all(math.isfinite(number) and number >= 0 for number in numbers):
        raise ValueError(f"expected counts and seconds, but got {numbers}")
    if streams is not None and (
        streams[0].shape != streams[1].shape or any((part < 0).any() for part in streams)
    ):
        raise ValueError(f"expected slots and a count of tokens for each, but got {streams}")
    if num_arrived is not None and not num_arrived >= 0:
        raise ValueError(f"expected tokens that arrived, but got {num_arrived}")
