"""`flyball generate`: continue a prompt with governed decoding."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flyball.commands.models import DEMO, Models, load_models
from flyball.commands.options import DraftFolder, ModelFolder
from flyball.controller.errors import HostError

if TYPE_CHECKING:
    from flyball.controller.policy_file import PolicyFile


def generate(
    prompt: Annotated[
        str | None, typer.Argument(help="Text to continue; standard input by default.")
    ] = None,
    model: ModelFolder = DEMO,
    draft: DraftFolder = None,
    prompt_lookup: Annotated[
        bool, typer.Option("--prompt-lookup", help="Draft what followed the same words before.")
    ] = False,
    policy: Annotated[Path | None, typer.Option(metavar="FILE", help="Policy file.")] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Tokens to generate.")] = 128,
    sample: Annotated[bool, typer.Option("--sample", help="Sample; greedy otherwise.")] = False,
    temperature: Annotated[
        float | None, typer.Option(help="Of sampling; must be above 0.")
    ] = None,
    top_p: Annotated[
        float | None, typer.Option(min=0.0, max=1.0, help="Probability mass to sample from.")
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(min=0, help="Of sampling; repeats a text where no clock decides (static)."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object at the end.")
    ] = False,
) -> None:
    """Continue a prompt; text goes to standard output, statistics to standard error."""
    from flyball.controller.policy_file import load_policy

    sampling = {"temperature": temperature, "top_p": top_p}
    settings = {name: value for name, value in sampling.items() if value is not None}
    if not sample and (settings or seed is not None):
        raise HostError("expected --sample beside --temperature, --top-p or --seed; add it")
    if temperature is not None and not temperature > 0:
        raise HostError(
            f"expected --temperature above 0, but got {temperature:g}; "
            "leave --sample out for greedy decoding"
        )
    checked = load_policy(policy)
    if prompt is None:
        prompt = sys.stdin.buffer.read().decode("utf-8", "replace")
    if not prompt:
        raise HostError("expected a prompt of at least one token, but got none; type one")
    if model != DEMO and draft is None and not prompt_lookup:
        raise HostError("expected something that drafts; pass --draft DIR or --prompt-lookup")
    models = load_models(model, [] if draft is None else [draft])
    settings = {**settings, "max_new_tokens": max_new_tokens, "do_sample": sample}
    drafts = [*models.drafts.values(), *(["prompt_lookup"] if prompt_lookup else [])]
    text, stats = _decode(models, drafts, checked, prompt, settings, seed, stream=not as_json)
    if as_json:
        print(json.dumps({"text": text, "stats": stats}))
    else:
        print(_line(stats), file=sys.stderr)


def _decode(
    models: Models,
    drafts: list[Any],
    policy: PolicyFile,
    prompt: str,
    settings: dict[str, Any],
    seed: int | None,
    *,
    stream: bool,
) -> tuple[str, dict[str, Any]]:
    """The text that follows the prompt, and statistics of decoding it."""
    import torch
    from transformers import TextStreamer

    from flyball.integrations.hf import govern

    if seed is not None:
        torch.manual_seed(seed)
    tokenizer = models.tokenizer
    inputs = tokenizer(prompt, return_tensors="pt", return_token_type_ids=False)
    inputs = inputs.to(models.target.device)
    streamer = TextStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
    with govern(models.target, drafts=drafts, policy=policy) as gov:
        tokens = gov.generate(**inputs, streamer=streamer if stream else None, **settings)
        stats = gov.stats
    text = tokenizer.decode(tokens[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    names = ("num_tokens", "num_rounds", "num_drafted", "num_accepted")
    result = {name: getattr(stats, name) for name in (*names, "total_s", "draft_s", "verify_s")}
    return text, {
        **result,
        "acceptance": stats.acceptance if stats.num_drafted else None,
        "tokens_per_s": stats.num_tokens / stats.total_s,
    }


def _line(stats: dict[str, Any]) -> str:
    rate = "" if stats["acceptance"] is None else f" (rate {stats['acceptance']:.2f})"
    return (
        f"{stats['num_tokens']} tokens in {stats['total_s']:.2f} s, "
        f"{stats['tokens_per_s']:.1f} tokens/s; {stats['num_rounds']} rounds, "
        f"{stats['num_drafted']} tokens drafted, {stats['num_accepted']} accepted{rate}"
    )
