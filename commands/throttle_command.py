"""A command as the load that a setting is tried on."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Mapping, Sequence

from flyball.commands.throttle_trials import Trial
from flyball.controller.errors import HardwareError
from flyball.controller.hardware import Actuator, Meter
from flyball.policies.throttle.base import Context, Window
from flyball.policies.throttle.space import Places, Value

# A run counts as one token of one request: what it asks for is the same each time.
RUN = Context(tokens_per_s=1.0, batch_size=1.0)
_STANDARD_ERROR = 2  # standard output is for results


def command_trial(command: Sequence[str], actuator: Actuator, meter: Meter) -> Trial:
    """Runs a command under a setting.

    The trial raises HardwareError where the setting cannot be set or the command fails.

    Args:
        command: and its arguments.
        actuator: not in a dry run.
        meter: of the same device.
    """
    space = actuator.capabilities()

    def run(setting: Places) -> Window:
        named = space.named(setting)
        actuator.apply(named)
        began_j, began_s = meter.energy_j(), time.perf_counter()
        done = subprocess.run(command, stdout=_STANDARD_ERROR, env=_environment(named))
        if done.returncode:
            raise HardwareError(
                f"{command[0]}: expected a command that succeeds, but it ended with status "
                f"{done.returncode}"
            )
        run_s = time.perf_counter() - began_s
        return Window(setting, RUN, run_s, 1, meter.energy_j() - began_j, run_s)

    return run


def _environment(named: Mapping[str, Value]) -> dict[str, str]:
    """A started process inherits its CPUs, but not its number of threads."""
    environment = dict(os.environ)
    if "num_threads" in named:
        environment["OMP_NUM_THREADS"] = f"{named['num_threads']:g}"
    return environment
