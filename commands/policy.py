"""`flyball policy`: check, show and list decoding policies."""

from __future__ import annotations

import inspect
import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from flyball.controller.errors import PolicyFileError

app = typer.Typer(
    name="policy", help="Check, show and list decoding policies.", no_args_is_help=True
)

_SETTINGS_WIDTH = 60  # a long list of checkpoints would leave no room for what a policy does


@app.command()
def check(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Policy files.")],
) -> None:
    """Say whether policy files can be used; exit with 2 where one cannot."""
    from flyball.controller.policy_file import load_policy

    num_broken = 0
    for path in files:
        try:
            policy = load_policy(path)
        except PolicyFileError as error:
            print(f"flyball: {error}", file=sys.stderr)
            num_broken += 1
        else:
            print(f"{path}: ok, length policy {policy.length.policy}")
    if num_broken:
        raise typer.Exit(2)


@app.command()
def schema() -> None:
    """Print the JSON schema of a policy file, for editors."""
    from flyball.controller.policy_file import policy_schema

    print(json.dumps(policy_schema(), indent=2))


@app.command()
def show(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Policy file.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Print a policy file as YAML with every setting, defaults included."""
    from flyball.controller.policy_file import dump_policy, load_policy

    policy = load_policy(file)
    print(json.dumps(policy.model_dump()) if as_json else dump_policy(policy).rstrip())


@app.command("list")
def list_policies(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List every policy with what it does and its settings."""
    rows = _describe()
    if as_json:
        print(json.dumps(rows))
        return
    table = Table()
    for heading in ("section", "policy", "what it does"):
        table.add_column(heading, overflow="fold")
    table.add_column("settings", overflow="fold", max_width=_SETTINGS_WIDTH)
    for row in rows:
        name = f"{row['policy']} (default)" if row["default"] else row["policy"]
        settings = [
            f"{s['name']} (required)" if s["required"] else f"{s['name']} = {s['default']}"
            for s in row["settings"]
        ]
        table.add_row(row["section"], name, Text(row["summary"]), Text("\n".join(settings)))
    Console().print(table)


def _describe() -> list[dict[str, Any]]:
    """One entry a policy, by section and name."""
    from flyball.controller.policy_file import load_policy
    from flyball.controller.sections import POLICIES

    default = load_policy(None).model_dump()
    return [
        {
            "section": section,
            "policy": name,
            "default": name == (default[section] or {}).get("policy"),
            "summary": inspect.cleandoc(policy.__doc__ or "").partition("\n")[0],
            "settings": [
                {
                    "name": key,
                    "required": field.is_required(),
                    "default": None if field.is_required() else field.get_default(),
                    "description": field.description,
                }
                for key, field in policy.Settings.model_fields.items()
                if key != "policy"
            ],
        }
        for section, policies in POLICIES.items()
        for name, policy in policies.items()
    ]
