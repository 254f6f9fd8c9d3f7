"""A command, run again and again under one setting after another."""

from __future__ import annotations

import math
import os
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from flyball.controller.errors import HardwareError
from flyball.controller.hardware import Actuator, Meter
from flyball.policies.throttle.base import Context, Goal, ThrottlePolicy, Window
from flyball.policies.throttle.space import Places, Space, Value

# A run counts as one token of one request: what it asks for is the same each time.
RUN = Context(tokens_per_s=1.0, batch_size=1.0)

_STANDARD_ERROR = 2  # standard output is for the table


@dataclass(frozen=True)
class Run:
    """What one run took.

    Attributes:
        setting: in force.
        run_s: seconds.
        energy_j: drawn, or what stands in for it.
        kept: whether goal and SLO were kept.
    """

    setting: dict[str, Value]
    run_s: float
    energy_j: float
    kept: bool


class Runs:
    """Runs a command, each time under what a policy decides.

    Args:
        command: and its arguments.
        actuator: not in a dry run.
        meter: of the same device.
        goal: of a run: seconds in place of token latencies.
    """

    def __init__(
        self, command: Sequence[str], actuator: Actuator, meter: Meter, goal: Goal
    ) -> None:
        self._command = list(command)
        self._actuator = actuator
        self._meter = meter
        self._goal = goal
        self._space = actuator.capabilities()

    def under(self, setting: Places) -> tuple[Run, Window]:
        """One run.

        Raises:
            HardwareError: the setting cannot be set, or the command fails; in one line.
        """
        named = self._space.named(setting)
        self._actuator.apply(named)
        began_j, began_s = self._meter.energy_j(), time.perf_counter()
        done = subprocess.run(self._command, stdout=_STANDARD_ERROR, env=_environment(named))
        if done.returncode:
            raise HardwareError(
                f"{self._command[0]}: expected a command that succeeds, but it ended with status "
                f"{done.returncode}"
            )
        run_s = time.perf_counter() - began_s
        energy_j = self._meter.energy_j() - began_j
        window = Window(setting, RUN, run_s, 1, energy_j, run_s)
        return Run(named, run_s, energy_j, window.keeps(self._goal)), window

    def tuned(self, policy: ThrottlePolicy | None, start: Places, num_runs: int) -> Iterator[Run]:
        """So many runs: the first under a setting, the others as a policy decides.

        Raises:
            HardwareError: as `under`.
        """
        setting = start
        for _ in range(num_runs):
            run, window = self.under(setting)
            yield run
            if policy is not None:
                policy.learn(window)
                setting = policy.decide(RUN)


def start_of(space: Space, named: Mapping[str, Value]) -> Places:
    """The default setting with some knobs set."""
    return space.placed({**space.named(space.default), **named})


def best_of(runs: Sequence[Run]) -> Run | None:
    """The run of least energy that kept the goal; None where none did, or energy is unknown."""
    kept = [run for run in runs if run.kept and not math.isnan(run.energy_j)]
    return min(kept, key=lambda run: run.energy_j, default=None)


def _environment(named: Mapping[str, Value]) -> dict[str, str]:
    """A started process inherits its CPUs, but not its number of threads."""
    environment = dict(os.environ)
    if "num_threads" in named:
        environment["OMP_NUM_THREADS"] = f"{named['num_threads']:g}"
    return environment
