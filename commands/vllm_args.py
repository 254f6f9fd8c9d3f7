"""`flyball vllm-args`: the flags that put a policy into `vllm serve`."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from flyball.controller.errors import HostError
from flyball.integrations.vllm.traits import PROBED_WORKER

SCHEDULER = "flyball.integrations.vllm.GovernedScheduler"
LOOKUP = "flyball.integrations.vllm.lookup.LookupDrafter"
_NEEDS_MODEL = ("draft_model", "eagle", "eagle3")
_PROBED = (*_NEEDS_MODEL, "mtp")


def length_table(max_draft_len: int, max_num_seqs: int) -> list[tuple[int, int, int]]:
    """VLLM's table of draft length by batch size, with every length from 0 to the largest.

    vLLM captures graphs for the lengths that the table names. The governor chooses among them;
    the table itself holds only while it does not: lengths fall by one each time the batch doubles.

    Returns:
        (first batch size, last batch size, draft length) for each length.
    """
    rows, first = [], 1
    for draft_len in range(max_draft_len, -1, -1):
        last = max(max_num_seqs, first) if draft_len == 0 else max(first, 2 * first - 2)
        rows.append((first, last, draft_len))
        first = last + 1
    return rows


def speculative_config(
    method: str, max_draft_len: int, max_num_seqs: int, draft_model: str | None
) -> dict[str, Any]:
    """The value of `--speculative-config`.

    Raises:
        HostError: the method needs a draft model, or has no use for one.
    """
    if (method in _NEEDS_MODEL) != (draft_model is not None):
        wanted = "a --draft-model" if draft_model is None else "no --draft-model"
        raise HostError(f"--method {method}: expected {wanted}")
    config: dict[str, Any] = {"method": method}
    if method == "lookup":
        config = {"method": "custom_class", "model": LOOKUP}
    if draft_model is not None:
        config["model"] = draft_model
    if method == "ngram":
        config |= {"prompt_lookup_min": 2, "prompt_lookup_max": 4}
    config["num_speculative_tokens"] = max_draft_len
    config["num_speculative_tokens_per_batch_size"] = length_table(max_draft_len, max_num_seqs)
    return config


def vllm_args(
    policy: Annotated[Path, typer.Argument(help="Policy file.")],
    method: Annotated[
        str, typer.Option(help="How vLLM drafts: lookup (ours), ngram, draft_model, eagle3, ...")
    ] = "ngram",
    draft_model: Annotated[
        str | None, typer.Option(help="Folder or name of the draft, for methods with a model.")
    ] = None,
    max_num_seqs: Annotated[int, typer.Option(min=1, help="As for vllm serve.")] = 256,
    probe: Annotated[
        bool,
        typer.Option(
            "--probe",
            help="Cut drafts where the draft model was unsure; needs --no-async-scheduling.",
        ),
    ] = False,
) -> None:
    """Print the flags for `vllm serve` that let POLICY govern it."""
    from flyball.controller.policy_file import load_policy

    file = load_policy(policy)
    config = speculative_config(method, file.length.max_draft_len, max_num_seqs, draft_model)
    additional = {"flyball": {"policy": str(policy.resolve())}}
    flags = {
        "--scheduler-cls": SCHEDULER,
        "--max-num-seqs": str(max_num_seqs),
        "--speculative-config": json.dumps(config, separators=(",", ":")),
        "--additional-config": json.dumps(additional, separators=(",", ":")),
    }
    if probe:
        if method not in _PROBED:
            raise HostError(f"--probe: expected --method {' or '.join(_PROBED)}, but got {method}")
        flags["--worker-cls"] = PROBED_WORKER
    print(" ".join(f"{name} {shlex.quote(value)}" for name, value in flags.items()))
