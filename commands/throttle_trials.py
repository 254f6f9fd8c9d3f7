"""Trials of settings, one after the other, as a policy decides."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from flyball.policies.throttle.base import Context, Goal, ThrottlePolicy, Window
from flyball.policies.throttle.space import Places, Space, Value

Trial = Callable[[Places], Window]


@dataclass(frozen=True)
class Run:
    """What a trial showed.

    Attributes:
        setting: in force.
        latency_s: seconds of the command; or of a token, their 99% quantile.
        energy_j: of the command, or of a token; or what stands in for joules.
        kept: whether the goal's limits were kept.
    """

    setting: dict[str, Value]
    latency_s: float
    energy_j: float
    kept: bool


def tuned(
    trial: Trial,
    policy: ThrottlePolicy | None,
    space: Space,
    goal: Goal,
    start: Places,
    context: Context,
    num_runs: int,
) -> Iterator[Run]:
    """So many trials: the first under a setting, the others as a policy decides.

    Args:
        trial: tries a setting.
        policy: learns from each; None to stay at the first setting.
        space: of the settings.
        goal: whose limits may be broken.
        start: first setting.
        context: of all trials.
        num_runs: how many.

    Raises:
        HardwareError: as the trial does.
    """
    setting = start
    for _ in range(num_runs):
        window = trial(setting)
        yield Run(
            space.named(setting), window.latency_s, window.energy_per_token_j, window.keeps(goal)
        )
        if policy is not None:
            policy.learn(window)
            setting = policy.decide(context, window.num_waiting)


def start_of(space: Space, named: Mapping[str, Value]) -> Places:
    """The default setting with some knobs set."""
    return space.placed({**space.named(space.default), **named})


def best_of(runs: Sequence[Run]) -> Run | None:
    """The run of least energy that kept the goal; None where none did, or energy is unknown."""
    kept = [run for run in runs if run.kept and not math.isnan(run.energy_j)]
    return min(kept, key=lambda run: run.energy_j, default=None)
