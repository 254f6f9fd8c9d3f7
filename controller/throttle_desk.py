"""The slow side of a throttle: meter, policy and actuator, and what happens when one fails."""

from __future__ import annotations

import threading
from dataclasses import dataclass

import numpy as np

from flyball.controller.guard import BadAnswerError, Guard
from flyball.controller.hardware import Actuator, Meter
from flyball.controller.throttle_window import WindowSums
from flyball.policies.throttle.base import ThrottlePolicy
from flyball.policies.throttle.space import Places, Space, Value


@dataclass(frozen=True)
class Ended:
    """A window that ended.

    Attributes:
        number: of the window, from 1.
        sums: over its steps.
        ended_s: by the throttle's clock.
        num_waiting: requests that wait at its end.
    """

    number: int
    sums: WindowSums
    ended_s: float
    num_waiting: int


class ThrottleDesk:
    """Reads the meter, lets the policy learn and decide, sets knobs, and restores after faults.

    All of it may take long, and nothing of it raises. Windows are handled one after the other;
    `put` and `close` may come from other threads.

    Args:
        policy: made for the actuator's space.
        actuator: sets what the policy decides.
        meter: of the same device.
        share: of token latencies that the SLO speaks of.

    Attributes:
        space: of the settings.
        policy: that decides; in use by the worker's thread.
        guard: counts faults, and benches the policy for some windows.
    """

    def __init__(
        self, policy: ThrottlePolicy, actuator: Actuator, meter: Meter, share: float
    ) -> None:
        self.space = actuator.capabilities()
        self.guard = Guard()
        self.policy = policy
        self._actuator = actuator
        self._meter = meter
        self._share = share
        self._began_j = float("nan")
        self._acceptance = 0.0  # of the latest window that drafted
        self._closed = False
        self._turn = threading.Lock()  # of whoever sets the actuator

    @property
    def dry_run(self) -> bool:
        """Whether nothing is really set."""
        return self._actuator.dry_run

    def begin(self, number: int) -> None:
        """A window begins."""
        self._began_j = float("nan")
        if self.guard.benched(number):
            return
        try:
            self._began_j = self._meter.energy_j()
        except Exception as error:
            self.fail("meter", error, number)

    def end(self, ended: Ended) -> Places:
        """The setting (knobs,) for the next window, its slow knobs set already."""
        guard = self.guard
        if guard.benched(ended.number):
            return self.space.default
        try:
            guard.at_work = "meter"
            energy_j = self._meter.energy_j() - self._began_j
            guard.at_work = "policy"
            window = ended.sums.window(
                ended.ended_s, energy_j, ended.num_waiting, self._share, self._acceptance
            )
            self._acceptance = window.context.acceptance
            self.policy.learn(window)
            setting = self.policy.decide(window.context, ended.num_waiting)
            check_setting(setting, self.space)
            guard.at_work = "actuator"
            self.put(setting, slow=True)
        except Exception as error:
            self.fail(guard.at_work, error, ended.number)
            return self.space.default
        return setting

    def put(self, setting: Places, slow: bool) -> None:
        """Set the slow knobs of a setting, or the others.

        Raises:
            Exception: whatever the actuator raises.
        """
        named = part_of(self.space, setting, self._actuator.slow_knobs, slow)
        with self._turn:
            if named and not self._closed:
                self._actuator.apply(named)

    def fail(self, kind: str, error: Exception, number: int) -> None:
        """Count a fault in a window, bench the policy, put everything back."""
        self.guard.count(kind, repr(error))
        self.guard.bench(number)
        with self._turn:
            self._restore()

    def _restore(self) -> None:
        try:
            self._actuator.restore()
        except Exception as error:
            self.guard.count("restore", repr(error))

    def close(self) -> None:
        """Put everything back, and set nothing any more, whatever the policy still decides."""
        with self._turn:
            if not self._closed:
                self._closed = True
                self._restore()


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
