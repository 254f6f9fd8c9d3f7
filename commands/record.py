"""`flyball record`: a trace from a run of a model on a list of prompts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flyball.commands.models import DEMO, Models, load_models
from flyball.commands.options import AsJson, ModelFolder
from flyball.commands.progress import progress
from flyball.commands.prompts import read_prompts
from flyball.controller.errors import HostError

if TYPE_CHECKING:
    from flyball.controller.policy_file import PolicyFile
    from flyball.integrations.hf.record import Prompt, Recipe


def record(
    trace: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of the trace.")],
    prompts: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help='JSON lines {"prompt": ..., "domain": ...}, or a text file, a prompt a line; '
            "the demo's own by default.",
        ),
    ] = None,
    model: ModelFolder = DEMO,
    draft: Annotated[
        list[Path] | None,
        typer.Option(metavar="DIR", help="Folder of a draft model; more than one with --exact."),
    ] = None,
    exact: Annotated[
        bool,
        typer.Option(
            "--exact",
            help="Record what every draft would have done at every position, for exact replays; "
            "otherwise the rounds that the policy made.",
        ),
    ] = False,
    policy: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Policy file to decode with.")
    ] = None,
    max_new_tokens: Annotated[
        int, typer.Option(min=2, help="Tokens of each text, at most.")
    ] = 256,
    batch_size: Annotated[int, typer.Option(min=1, help="Texts at a time.")] = 8,
    ahead: Annotated[
        int, typer.Option(min=1, help="Positions ahead to record, with --exact.")
    ] = 32,
    temperature: Annotated[
        float | None, typer.Option(help="Sample at this temperature; greedy without.")
    ] = None,
    top_p: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Probability mass to sample from.")
    ] = 1.0,
    seed: Annotated[int, typer.Option(min=0, help="Of sampling.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Record a trace for `flyball replay`; with --exact, the same call again goes on."""
    if temperature is not None and not temperature > 0:
        raise HostError(
            f"expected --temperature above 0, but got {temperature:g}; leave it out for greedy "
            "texts"
        )
    if temperature is None and top_p < 1.0:
        raise HostError("expected --temperature beside --top-p; add it, or leave --top-p out")
    if not exact and draft is not None and len(draft) > 1:
        raise HostError("expected one --draft without --exact, which records what one run does")
    from flyball.controller.policy_file import load_policy
    from flyball.controller.sections import TraceSettings

    checked = load_policy(policy)
    if not exact:
        checked = checked.model_copy(update={"trace": TraceSettings(dir=str(trace))})
    models = load_models(model, draft or [])
    if not models.drafts:
        raise HostError("expected a draft model; pass --draft DIR")
    from flyball.integrations.hf.record import Recipe

    recipe = Recipe(
        target=model,
        drafts=models.drafts,
        max_new_tokens=max_new_tokens,
        batch_size=batch_size,
        num_ahead=ahead,
        sampling=None if temperature is None else {"temperature": temperature, "top_p": top_p},
        seed=seed,
    )
    summary = _record(models, read_prompts(prompts, models), recipe, checked, trace, exact=exact)
    if as_json:
        print(json.dumps(summary))
    else:
        print(", ".join(f"{number:,} {what}" for what, number in summary.items()))


def _record(
    models: Models,
    prompts: list[Prompt],
    recipe: Recipe,
    policy: PolicyFile,
    trace: Path,
    *,
    exact: bool,
) -> dict[str, int]:
    from flyball.integrations.hf import govern
    from flyball.integrations.hf.record import record_exactly, record_rounds

    # How many numbers a sampled text draws depends on its drafts, which depend on the clock.
    drafts = list(models.drafts.values())[: 0 if exact and recipe.sampling else 1]
    with govern(models.target, drafts, policy=policy) as gov, progress() as bar:
        steps = (
            record_exactly(gov, prompts, recipe, trace)
            if exact
            else record_rounds(gov, prompts, recipe)
        )
        task = bar.add_task("recording", total=len(prompts))
        for done in steps:
            bar.update(task, completed=done.num_prompts)
    return {"prompts": done.num_prompts, "found": done.num_found, "tokens": done.num_tokens}
