"""A device, a meter, a clock and policies that tests of the throttle steer."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence

import numpy as np

from flyball.policies.throttle.base import Context, Goal, ThrottlePolicy, ThrottleSettings, Window
from flyball.policies.throttle.space import Knob, Places, Space, Value

SPACE = Space(
    (
        Knob("clock_mhz", (500.0, 1000.0), "clock", 1, 1),
        Knob("num_threads", (1.0, 2.0, 4.0), "count", 2, 2),
    )
)
DEFAULT = [1, 2]
OTHER = [0, 1]


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


class Device:
    """Its clock is slow to set. Remembers which thread set what."""

    device = "a device"
    slow_knobs = frozenset({"clock_mhz"})

    def __init__(self, dry_run: bool = False) -> None:
        self.dry_run = dry_run
        self.now = SPACE.named(SPACE.default)
        self.log: list[tuple[str, int]] = []
        self.num_restores = 0
        self.broken: Sequence[str] = ()

    def capabilities(self) -> Space:
        return SPACE

    def apply(self, named: Mapping[str, Value], /) -> None:
        for name, value in named.items():
            if name in self.broken:
                raise OSError(f"{name} cannot be set")
            if not self.dry_run:
                self.now[name] = value
                self.log.append((name, threading.get_ident()))

    def read(self) -> dict[str, Value]:
        return dict(self.now)

    def restore(self) -> None:
        self.num_restores += 1
        self.now = SPACE.named(SPACE.default)
        if "restore" in self.broken:
            raise OSError("cannot be restored")


class Watts:
    """A constant power by the clock of a test."""

    kind = "joules, invented"

    def __init__(self, clock: Clock, watts: float = 100.0) -> None:
        self._clock, self._watts = clock, watts
        self.broken = False

    def energy_j(self) -> float:
        if self.broken:
            raise OSError("the meter is gone")
        return self._watts * self._clock.now_s


class Alternates(ThrottlePolicy):
    """Goes to and fro between two settings, and remembers the windows.

    Attributes:
        windows: learned from.
        answers: what it decides in turn, errors included; the last again and again.
    """

    Settings = ThrottleSettings

    def __init__(self, *answers: Places | Exception) -> None:
        settings = ThrottleSettings(policy="alternates")
        super().__init__(settings, SPACE, Goal(), np.random.default_rng(0))
        self.windows: list[Window] = []
        self.answers = list(answers) or [np.array(OTHER), np.array(DEFAULT)] * 100

    def learn(self, window: Window) -> None:
        self.windows.append(window)

    def decide(self, context: Context, num_waiting: int = 0) -> Places:
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


class Ponders(Alternates):
    """Waits in its decision until it is let go."""

    def __init__(self) -> None:
        super().__init__(np.array(OTHER))
        self.begun, self.go = threading.Event(), threading.Event()

    def decide(self, context: Context, num_waiting: int = 0) -> Places:
        self.begun.set()
        assert self.go.wait(60)
        return super().decide(context, num_waiting)
