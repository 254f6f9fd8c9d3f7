"""`flyball trace`: look into recorded traces."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

app = typer.Typer(name="trace", help="Look into recorded traces.", no_args_is_help=True)


@app.command()
def info(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of the trace.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show what a trace holds: counts, names, acceptance by position, times."""
    from flyball.controller.trace_summary import summarise

    summary = summarise(directory)
    if as_json:
        print(json.dumps(summary))
    else:
        console = Console()
        console.print(_overview(directory, summary))
        if summary["acceptance"]:
            console.print(_acceptance(summary))


def _overview(directory: Path, summary: dict[str, Any]) -> Table:
    table = Table(title=Text(str(directory)), show_header=False)
    size = summary["batch_size"]
    rows = {
        "segments": f"{summary['segments']:,} ({summary['bytes']:,} bytes)",
        "rounds of requests": f"{summary['rows']:,}",
        "steps": f"{summary['steps']:,}",
        "requests": f"{summary['requests']:,}",
        "time": f"{_clock(summary['start_s'])} to {_clock(summary['end_s'])}",
        "engines": ", ".join(summary["engines"]),
        "policies": ", ".join(summary["policies"]),
        "drafts": ", ".join(summary["drafts"]) or "none",
        "drafted tokens verified": f"{summary['proposed_tokens']:,}",
        "drafted tokens accepted": f"{summary['accepted_tokens']:,}",
        "accepted a round, mean": _number(summary["mean_accepted"]),
        "step, mean ms": _number(summary["mean_step_s"], 1e3),
        "batch size": f"{_number(size['min'])} to {_number(size['max'])}, "
        f"mean {_number(size['mean'])}",
    }
    for name, value in rows.items():
        table.add_row(name, Text(value))  # names may hold brackets, which are markup otherwise
    return table


def _acceptance(summary: dict[str, Any]) -> Table:
    table = Table(title="acceptance where the outcome was observed")
    for heading in ("position", "accepted", "rounds"):
        table.add_column(heading, justify="right")
    pairs = zip(summary["acceptance"], summary["observed_rounds"], strict=True)
    for position, (share, num_rounds) in enumerate(pairs, 1):
        table.add_row(str(position), f"{share:.3f}", f"{num_rounds:,}")
    return table


def _clock(time_s: float | None) -> str:
    if time_s is None:
        return "unknown"
    return datetime.fromtimestamp(time_s).astimezone().isoformat(" ", "seconds")


def _number(value: float | None, scale: float = 1.0) -> str:
    return "unknown" if value is None else f"{value * scale:.4g}"
