"""`flyball throttle`: what can be set of this machine, and the setting a command runs best at."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from flyball.commands.options import AsJson
from flyball.commands.throttle_devices import Name, describe, open_device, parse_setting, shown

if TYPE_CHECKING:
    from flyball.commands.throttle_runs import Run
    from flyball.policies.throttle.base import Goal, ThrottlePolicy
    from flyball.policies.throttle.space import Space, Value


def throttle(
    command: Annotated[
        list[str] | None,
        typer.Argument(metavar="[-- COMMAND...]", help="What to run; its energy is measured."),
    ] = None,
    actuator: Annotated[Name, typer.Option(help="Device to be set.")] = "cpu",
    gpu: Annotated[int, typer.Option(min=0, help="Of nvml: which GPU, as NVML counts.")] = 0,
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KNOB=VALUE", help="Where the command starts; several."),
    ] = None,
    policy: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Policy file whose throttle section tunes the runs."),
    ] = None,
    runs: Annotated[int, typer.Option(min=1, help="Of the command.")] = 1,
    slo_s: Annotated[
        float | None, typer.Option(min=0.0, help="Seconds that a run may take.")
    ] = None,
    power_cap_w: Annotated[
        float | None, typer.Option(min=0.0, help="Watts that a run may draw on average.")
    ] = None,
    apply: Annotated[
        bool, typer.Option("--apply", help="Set it, and put it back at the end.")
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of the policy's draws.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Show what can be set of a device; with --apply, run COMMAND under settings.

    Nothing is set without --apply. Whatever ends it, a kill included, puts the device back.
    """
    from flyball.commands.throttle_runs import RUN, Runs, best_of, start_of
    from flyball.policies.throttle.base import Goal

    goal = Goal(latency_slo_s=slo_s, power_cap_w=power_cap_w)
    device, meter = open_device(actuator, gpu, dry_run=not apply)
    with device:
        space = device.capabilities()
        tuner = _policy(policy, space, goal, seed)
        start = start_of(space, parse_setting(setting or [], space))
        found: dict[str, Any] = {**describe(device, meter, device.denied)}
        found["start"] = space.named(start)
        found["next"] = None if tuner is None else space.named(tuner.decide(RUN))
        if not (apply and command):
            if not as_json:
                _show(found, command or [])
        else:
            done = []
            for run in Runs(command, device, meter, goal).tuned(tuner, start, runs):
                done.append(run)
                if not as_json:
                    _show_run(len(done), run, found["meter"])
            best = best_of(done)
            found["runs"] = [dataclasses.asdict(run) for run in done]
            found["best"] = None if best is None else dataclasses.asdict(best)
            if not as_json:
                _show_best(best, done[0])
    if as_json:
        print(json.dumps(found))


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

    try:
        found = load_policy(path).make_throttle_policy(space, goal, np.random.default_rng(seed))
    except ValueError as error:
        raise PolicyFileError(str(error)) from error
    if found is None:
        raise PolicyFileError(f"{path}: expected a section throttle, but it has none; add one")
    return found


def _show(found: dict[str, Any], command: list[str]) -> None:
    console = Console()
    table = Table(title=Text(found["device"]))
    for heading in ("knob", "in force", "can be set to"):
        table.add_column(heading, overflow="fold")
    for knob in found["knobs"]:
        values = ", ".join(map(shown, knob["values"]))
        table.add_row(knob["name"], shown(knob["in_force"]), values)
    console.print(table)
    for name, value in found["readings"].items():
        console.print(Text(f"{name}: {shown(value)}"))
    console.print(Text(f"meter: {found['meter']}"))
    for line in found["denied"]:
        console.print(Text(f"cannot be set: {line}"))
    if found["next"] is not None:
        console.print(Text(f"the policy begins with: {_words(found['next'])}"))
    if command:
        starts = f"{command[0]} starts with: {_words(found['start'])}"
        console.print(Text(f"dry run; with --apply, {starts}"))


def _show_run(number: int, run: Run, meter: str) -> None:
    missed = "" if run.kept else "  (over the limit)"
    print(
        f"{number}: {_words(run.setting)}  {run.run_s:.3f} s  {run.energy_j:.3f} {meter}{missed}"
    )


def _show_best(best: Run | None, first: Run) -> None:
    if best is None:
        print("no run kept the limits")
        return
    # The meter may not have moved in a short run.
    saved = f"{1 - best.energy_j / first.energy_j:.1%}" if first.energy_j > 0 else "unknown"
    print(f"least: {_words(best.setting)}  saved of the first run's: {saved}")


def _words(setting: Mapping[str, Value]) -> str:
    return " ".join(f"{name}={shown(value)}" for name, value in setting.items())
