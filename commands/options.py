"""Options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, TypeAlias

import typer

AsJson: TypeAlias = Annotated[bool, typer.Option("--json", help="Print JSON.")]
DraftName: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--draft", help="Name of the draft, where the trace has several; or prompt_lookup."
    ),
]
CostFile: TypeAlias = Annotated[
    str,
    typer.Option("--costs", metavar="FILE", help="Cost table, or the name of a published one."),
]
ExactTrace: TypeAlias = Annotated[
    Path, typer.Argument(metavar="TRACE", help="Folder of an exact trace.")
]
HostName: TypeAlias = Annotated[
    Literal["transformers", "vllm"], typer.Option("--host", help="How batches are decoded.")
]
ModelFolder: TypeAlias = Annotated[
    str, typer.Option("--model", metavar="DIR", help="Folder of the target, or the demo's.")
]
DraftFolder: TypeAlias = Annotated[
    Path | None, typer.Option("--draft", metavar="DIR", help="Folder of a draft model.")
]
