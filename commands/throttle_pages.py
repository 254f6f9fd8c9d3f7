"""How `flyball throttle` shows devices and runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from flyball.commands.throttle_devices import shown
from flyball.commands.throttle_trials import Run
from flyball.policies.throttle.space import Value


def show_device(found: Mapping[str, Any], command: list[str]) -> None:
    """A device: knobs, readings, meter, rights; and where policy and command would begin."""
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
        console.print(Text(f"the policy begins with: {words(found['next'])}"))
    if command:
        starts = f"{command[0]} starts with: {words(found['start'])}"
        console.print(Text(f"dry run; with --apply, {starts}"))


def show_run(number: int, run: Run, each: str, meter: str) -> None:
    """A line for a run, with what each command or token of it took."""
    missed = "" if run.kept else "  (over the limit)"
    took = f"{run.latency_s:.4g} s, {run.energy_j:.4g} {meter}"
    print(f"{number}: {words(run.setting)}  a {each} {took}{missed}")


def show_best(best: Run | None, first: Run) -> None:
    """The run of least energy, and what it saved."""
    if best is None:
        print("no run kept the limits")
        return
    # The meter may not have moved in a short run.
    saved = f"{1 - best.energy_j / first.energy_j:.1%}" if first.energy_j > 0 else "unknown"
    print(f"least: {words(best.setting)}  saved of the first run's: {saved}")


def words(setting: Mapping[str, Value]) -> str:
    """A setting in a line."""
    return " ".join(f"{name}={shown(value)}" for name, value in setting.items())
