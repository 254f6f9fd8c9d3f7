"""Sets hardware while a host decodes: window by window, and off the decoding thread."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from queue import Empty, SimpleQueue

import numpy as np
from numpy.typing import NDArray

from flyball.controller.guard import BadAnswerError, Guard
from flyball.controller.hardware import Actuator, Meter
from flyball.controller.throttle_window import WindowSums
from flyball.policies.throttle.base import ThrottlePolicy
from flyball.policies.throttle.space import Places, Space, Value

Floats = NDArray[np.float64]

WINDOW_S = 2.0
SHARE = 0.99


@dataclass(frozen=True)
class _Closed:
    """A window that ended, for the worker."""

    sums: WindowSums
    ended_s: float
    num_waiting: int


@dataclass(frozen=True)
class _Failed:
    """A setting that could not be adopted, for the worker."""

    error: Exception


class _Begun:
    """A window begins, for the worker, who reads the meter."""


class Throttle:
    """Runs a throttle policy beside a host, which calls `observe` after each step.

    Steps are summed up on the decoding thread. A window that ends goes to a worker thread, which
    reads the meter, lets the policy learn and decide, and sets the slow knobs. Meanwhile steps
    run on, and count in no window. The decoding thread finds the answer at a later step, sets
    the other knobs, and begins the next window: nothing ever waits. The first window runs under
    what is in force where nobody governs.

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
        self._policy = policy
        self._actuator = actuator
        self._meter = meter
        self._window_s = window_s
        self._share = share
        self._clock = clock
        self._wait = wait
        self._space = actuator.capabilities()
        self._guard = Guard()
        self._turn = threading.Lock()  # of whoever sets the actuator
        self._closed = False
        self._told: SimpleQueue[_Begun | _Closed | _Failed | None] = SimpleQueue()
        self._answers: SimpleQueue[Places] = SimpleQueue()
        self._began_j = float("nan")
        self._acceptance = 0.0  # of the latest window that drafted
        self._sums: WindowSums | None = None
        self.setting = self.wanted = self._space.default
        self.num_steps = self.num_windows = 0
        self._worker = threading.Thread(target=self._work, name="flyball-throttle", daemon=True)
        self._worker.start()
        self._begin()

    @property
    def faults(self) -> dict[str, int]:
        """How often each kind of fault happened."""
        return self._guard.faults

    def observe(
        self,
        num_tokens: int,
        step_s: float,
        batch_size: float,
        latencies_s: Floats | None = None,
        num_waiting: int = 0,
        num_seen: int = 0,
        num_accepted: int = 0,
        num_arrived: float | None = None,
    ) -> None:
        """Take in a step, and set what was decided since.

        Args:
            num_tokens: generated.
            step_s: seconds it took.
            batch_size: requests that took part.
            latencies_s: (tokens,) seconds that each token took; left out, requests share the
                tokens evenly.
            num_waiting: requests that wait to be let in.
            num_seen: drafted tokens of which is known whether they are right: none after a
                rejected one.
            num_accepted: of them accepted.
            num_arrived: tokens that were asked for since the step before, if that is known;
                those generated stand in. Infinite where requests wait all along.
        """
        if self._closed:
            return
        self.num_steps += 1
        sums = self._sums
        if sums is None:
            self._adopt(wait=False)  # this step ran before
            return
        if not _sound(num_tokens, step_s, batch_size, latencies_s):
            self._guard.count("step", "counts or seconds that cannot be true")
            return
        sums.add(num_tokens, step_s, batch_size, latencies_s, num_seen, num_accepted, num_arrived)
        now_s = self._clock()
        if now_s - sums.began_s >= self._window_s:
            self._sums = None
            self.num_windows += 1
            self._told.put(_Closed(sums, now_s, num_waiting))
            if self._wait:
                self.catch_up()

    def catch_up(self) -> None:
        """Wait for the answer to the last window, if it is still to come, and adopt it."""
        if self._sums is None and not self._closed:
            self._adopt(wait=True)

    def _adopt(self, wait: bool) -> None:
        """Set what the worker answered, if it has."""
        try:
            self.wanted = self._answers.get(block=wait)
        except Empty:
            return
        try:
            self._set(self.wanted, slow=False)
        except Exception as error:
            self._told.put(_Failed(error))
            self.wanted = self._space.default
        if not self._actuator.dry_run:
            self.setting = self.wanted
        self._begin()

    def _begin(self) -> None:
        self._sums = WindowSums(self.setting, self._clock())
        if self._wait:
            self._began_j = self._read_meter()
        else:
            self._told.put(_Begun())

    def _set(self, setting: Places, slow: bool) -> None:
        """Set the slow knobs of a setting, or the others."""
        named = part_of(self._space, setting, self._actuator.slow_knobs, slow)
        with self._turn:
            if named and not self._closed:
                self._actuator.apply(named)

    def _work(self) -> None:
        while (message := self._told.get()) is not None:
            if isinstance(message, _Closed):
                self._answers.put(self._answer(message))
            elif isinstance(message, _Failed):
                self._fail("actuator", message.error)
            else:
                self._began_j = self._read_meter()

    def _answer(self, closed: _Closed) -> Places:
        """The setting for the next window."""
        guard = self._guard
        if guard.benched(self.num_windows):
            return self._space.default
        try:
            guard.at_work = "meter"
            energy_j = self._meter.energy_j() - self._began_j
            guard.at_work = "policy"
            window = closed.sums.window(
                closed.ended_s, energy_j, closed.num_waiting, self._share, self._acceptance
            )
            self._acceptance = window.context.acceptance
            self._policy.learn(window)
            setting = self._policy.decide(window.context, closed.num_waiting)
            check_setting(setting, self._space)
            guard.at_work = "actuator"
            self._set(setting, slow=True)
        except Exception as error:
            self._fail(guard.at_work, error)
            return self._space.default
        return setting

    def _read_meter(self) -> float:
        if self._guard.benched(self.num_windows + 1):
            return float("nan")
        try:
            return self._meter.energy_j()
        except Exception as error:
            self._fail("meter", error)
            return float("nan")

    def _fail(self, kind: str, error: Exception) -> None:
        """Count a fault, bench the policy, put everything back."""
        self._guard.count(kind, repr(error))
        self._guard.bench(self.num_windows)
        self._restore()

    def _restore(self) -> None:
        with self._turn:
            try:
                self._actuator.restore()
            except Exception as error:
                self._guard.count("restore", repr(error))

    def close(self) -> None:
        """Put back what was in force, and end the worker; steps are ignored from then on."""
        if self._closed:
            return
        # What the worker is at may take seconds; what it decides is not set any more.
        self._closed = True
        self._restore()
        self._told.put(None)
        self._worker.join()


def part_of(
    space: Space, setting: Places, slow_knobs: frozenset[str], slow: bool
) -> dict[str, Value]:
    """The slow knobs of a setting by name, or the others."""
    named = space.named(setting)
    return {name: value for name, value in named.items() if (name in slow_knobs) is slow}


def check_setting(setting: Places, space: Space) -> None:
    """Refuse what is no setting.

    Raises:
        BadAnswerError: in one line.
    """
    shape = (len(space.knobs),)
    fits = isinstance(setting, np.ndarray) and setting.shape == shape and setting.dtype.kind == "i"
    if not fits or ((setting < 0) | (setting >= np.array(space.shape))).any():
        raise BadAnswerError(f"expected places below {space.shape}, but got {setting!r}")


def _sound(num_tokens: int, step_s: float, batch_size: float, latencies_s: Floats | None) -> bool:
    numbers = (num_tokens, step_s, batch_size)
    if not all(math.isfinite(number) and number >= 0 for number in numbers):
        return False
    return latencies_s is None or bool(np.isfinite(latencies_s).all())
