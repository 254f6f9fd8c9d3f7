"""`flyball throttle`: what can be set of a device, and the setting that a load runs best at."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from flyball.commands.options import AsJson

if TYPE_CHECKING:
    from flyball.commands.throttle_trials import Trial
    from flyball.controller.hardware import Meter
    from flyball.integrations.hardware.base import LeverActuator
    from flyball.integrations.hardware.simulated import SimulatedDevice
    from flyball.policies.throttle.base import Context, Goal, ThrottlePolicy
    from flyball.policies.throttle.space import Space


@dataclass(frozen=True)
class _Bench:
    """A device, its meter, and the load that settings are tried on."""

    device: LeverActuator | SimulatedDevice
    meter: Meter
    context: Context
    trial: Trial | None  # None where nothing is run
    each: str  # what latency and energy of a run are those of
    denied: list[str] = field(default_factory=list)

    def page(self) -> dict[str, Any]:
        """What there is to say of the device."""
        from flyball.commands.throttle_devices import describe_knobs

        return {
            "device": self.device.device,
            "dry_run": self.device.dry_run,
            "meter": self.meter.kind,
            "denied": self.denied,
            "readings": self.device.read(),
            "knobs": describe_knobs(self.device.capabilities()),
        }


def throttle(
    command: Annotated[
        list[str] | None,
        typer.Argument(metavar="[-- COMMAND...]", help="What to run; its energy is measured."),
    ] = None,
    actuator: Annotated[
        Literal["cpu", "nvml", "simulated"], typer.Option(help="Device to be set.")
    ] = "cpu",
    gpu: Annotated[int, typer.Option(min=0, help="Of nvml: which GPU, as NVML counts.")] = 0,
    device: Annotated[str, typer.Option(help="Of simulated: A100, H100, Orin or TX2.")] = "A100",
    load: Annotated[
        float,
        typer.Option(min=0.01, max=0.99, help="Of simulated: share of what it can generate."),
    ] = 0.5,
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KNOB=VALUE", help="Where the runs start; give several."),
    ] = None,
    policy: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Policy file whose throttle section tunes the runs."),
    ] = None,
    runs: Annotated[int, typer.Option(min=1, help="Of the command, or of simulated minutes.")] = 1,
    slo_s: Annotated[
        float | None,
        typer.Option(min=0.0, help="Seconds that a run, or a simulated token, may take."),
    ] = None,
    power_cap_w: Annotated[
        float | None, typer.Option(min=0.0, help="Watts that a run may draw on average.")
    ] = None,
    apply: Annotated[
        bool, typer.Option("--apply", help="Set it, and put it back at the end.")
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of the policy's and simulated draws.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Show what can be set of a device; with --apply, run COMMAND under settings.

    Nothing is set without --apply. Whatever ends it, a kill included, puts the device back.
    """
    from flyball.commands.throttle_devices import parse_setting
    from flyball.commands.throttle_pages import show_best, show_device, show_run
    from flyball.commands.throttle_trials import best_of, start_of, tuned
    from flyball.policies.throttle.base import Goal

    goal = Goal(latency_slo_s=slo_s, power_cap_w=power_cap_w)
    if actuator == "simulated":
        bench = _simulated(device, load, seed)
    else:
        bench = _real(actuator, gpu, apply, command or [])
    with bench.device:
        space, page = bench.device.capabilities(), bench.page()
        tuner = _policy(policy, space, goal, seed)
        start = start_of(space, parse_setting(setting or [], space))
        page["start"] = space.named(start)
        if bench.trial is None:
            page["next"] = None if tuner is None else space.named(tuner.decide(bench.context))
            if not as_json:
                show_device(page, command or [])
        else:
            done = []
            for run in tuned(bench.trial, tuner, space, goal, start, bench.context, runs):
                done.append(run)
                if not as_json:
                    show_run(len(done), run, bench.each, page["meter"])
            best = best_of(done)
            page["runs"] = [dataclasses.asdict(run) for run in done]
            page["best"] = None if best is None else dataclasses.asdict(best)
            if not as_json:
                show_best(best, done[0])
    if as_json:
        print(json.dumps(page))


def _real(name: Literal["cpu", "nvml"], gpu: int, apply: bool, command: list[str]) -> _Bench:
    from flyball.commands.throttle_command import RUN, command_trial
    from flyball.integrations.hardware.devices import open_device

    device, meter = open_device(name, gpu, dry_run=not apply)
    trial = command_trial(command, device, meter) if apply and command else None
    return _Bench(device, meter, RUN, trial, "run", device.denied)


def _simulated(name: str, load: float, seed: int) -> _Bench:
    import numpy as np

    from flyball.commands.throttle_simulated import simulated, simulated_trial

    device, context = simulated(name, load)
    trial = simulated_trial(device, context, np.random.default_rng(seed))
    return _Bench(device, device, context, trial, "token")


def _policy(path: Path | None, space: Space, goal: Goal, seed: int) -> ThrottlePolicy | None:
    """The policy of a file; None without a file.

    Raises:
        PolicyFileError: the file has no throttle section, or one for other knobs; in one line.
    """
    if path is None:
        return None
    import numpy as np

    from flyball.controller.errors import PolicyFileError
    from flyball.controller.policy_file import load_policy

    file = load_policy(path)
    try:
        found = file.make_throttle_policy(space, goal, np.random.default_rng(seed))
    except ValueError as error:
        raise PolicyFileError(f"{path}: {error}") from error
    if found is None:
        raise PolicyFileError(f"{path}: expected a section throttle, but it has none; add one")
    return found
