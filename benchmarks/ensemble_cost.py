"""Claim: views of one draft, as rows of one batch, cost little more than one view alone.

python -m benchmarks.ensemble_cost [--quick] [--json FILE]

Llama drafts with random weights, two layers each and wider from row to row, batch 1, one draft
step (a forward of one token for each view). Views have prompts of different lengths, as those of
images have. One view alone and 2, 3, 4 views take turns. What the ratio is made of is the linear
layers: where they are bound by memory, four rows cost what one does. Float32 on a CPU goes through
another library than bfloat16 in torch, whose products of a few rows are not.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.utils import logging

from benchmarks import report
from flyball.integrations.hf.cached_model import CachedModel

WIDTHS = (128, 512, 1024, 2048)
VIEWS = (1, 2, 3, 4)
PROMPTS = (96, 64, 70, 80)  # tokens of each view's prompt
DTYPES = ("float32", "bfloat16")
COLUMNS = ("dtype", "hidden", "parameters_m", "one_ms", "two", "three", "four")


def main() -> None:
    """Measure, print, write."""
    parser = report.argument_parser("ensemble_cost", __doc__, "few steps")
    arguments = parser.parse_args()
    logging.set_verbosity_error()
    num_steps = 10 if arguments.quick else 60
    rows = [_measure(dtype, hidden, num_steps) for dtype in DTYPES for hidden in WIDTHS]
    report.print_table("a draft step, to one view's", rows, COLUMNS)
    summary = {f"four_{row['dtype']}_{row['hidden']}": row["four"] for row in rows}
    report.print_summary(summary)
    report.write("ensemble_cost", vars(arguments), rows, summary, arguments.json)


@torch.inference_mode()
def _measure(dtype: str, hidden: int, num_steps: int) -> dict[str, Any]:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=512,
        hidden_size=hidden,
        intermediate_size=3 * hidden,
        num_hidden_layers=2,
        num_attention_heads=hidden // 64,
    )
    model = LlamaForCausalLM(config).eval().to(getattr(torch, dtype))
    caches = {}
    for views in VIEWS:
        cached = CachedModel(model, 1, 256 + num_steps, num_lanes=views)
        lengths = np.array(PROMPTS[:views])
        tokens = torch.randint(0, 512, (views, int(lengths.max())))
        cached.read_prompts(tokens, lengths, np.arange(views))
        caches[views] = cached
    seconds = np.zeros((num_steps, len(VIEWS)))
    for step in range(num_steps):
        for place, views in enumerate(VIEWS):
            tokens = torch.randint(0, 512, (views, 1))
            start = time.perf_counter()
            caches[views].forward(tokens, np.array(PROMPTS[:views]) + step)
            seconds[step, place] = time.perf_counter() - start
    one, two, three, four = np.median(seconds[num_steps // 5 :], axis=0).tolist()
    return {
        "dtype": dtype,
        "hidden": hidden,
        "parameters_m": sum(weight.numel() for weight in model.parameters()) / 1e6,
        "one_ms": 1e3 * one,
        "two": two / one,
        "three": three / one,
        "four": four / one,
    }


if __name__ == "__main__":
    main()
