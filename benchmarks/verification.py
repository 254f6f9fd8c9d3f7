"""Claim: verified as a block, sampled drafts keep more tokens than token by token, never fewer.

python -m benchmarks.verification [--quick] [--seed-base N] [--json FILE]

The demo's models in transformers, sampling at temperature 1, constant draft lengths. Both ways of
verification take turns at every prompt. Intervals are 95%, by a paired bootstrap over prompts.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
import torch
from transformers.utils import logging

from benchmarks import report
from flyball.demo.loader import load_demo
from flyball.integrations.hf import govern
from flyball.kernels.verify import Verification

LENGTHS = (1, 2, 4, 8)
WAYS: tuple[Verification, ...] = ("standard", "block")
RESAMPLES = 2000
COLUMNS = (
    "draft_len", "rounds", "standard", "block", "gain", "gain_low", "gain_high", "speed",
)  # fmt: skip


def main() -> None:
    """Measure, print, write."""
    parser = report.argument_parser("verification", __doc__, "few short texts")
    report.add_seed_base(parser, "draws")
    arguments = parser.parse_args()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    rows = [_measure(length, arguments) for length in LENGTHS]
    report.print_table("drafted tokens accepted a round", rows, COLUMNS)
    summary = {f"gain_at_{row['draft_len']}": row["gain"] for row in rows}
    report.print_summary(summary)
    report.write("verification", vars(arguments), rows, summary, arguments.json)


def _measure(length: int, arguments: argparse.Namespace) -> dict[str, Any]:
    models, num_tokens = load_demo(), 40 if arguments.quick else 160
    prompts = [
        models.tokenizer(text)["input_ids"]
        for texts in models.prompts.values()
        for text in texts[: 3 if arguments.quick else 16]
    ]
    policy = {"version": 1, "length": {"policy": "static", "draft_len": length}}
    govs = [govern(models.target, [models.draft], policy=policy, verification=way) for way in WAYS]
    rng = np.random.default_rng([arguments.seed_base, length])
    torch.manual_seed(int(rng.integers(2**31)))
    # Of each prompt and way: rounds, accepted tokens, new tokens, seconds.
    found = np.zeros((len(prompts), len(WAYS), 4))
    for number, prompt in enumerate(prompts):
        for way in rng.permutation(len(WAYS)).tolist():
            before = govs[way].stats
            govs[way].generate_many([prompt], max_new_tokens=num_tokens, do_sample=True, top_k=0)
            after = govs[way].stats
            found[number, way] = [
                getattr(after, name) - getattr(before, name)
                for name in ("num_rounds", "num_accepted", "num_tokens", "total_s")
            ]
    drawn = rng.integers(0, len(prompts), (RESAMPLES, len(prompts)))
    rounds, accepted, tokens, seconds = found.sum(axis=0).T
    low, high = np.quantile(_gain(found[drawn].sum(axis=1)), [0.025, 0.975])
    return {
        "draft_len": length,
        "rounds": int(rounds.sum()),
        "standard": float(accepted[0] / rounds[0]),
        "block": float(accepted[1] / rounds[1]),
        "gain": float(_gain(found.sum(axis=0))),
        "gain_low": float(low),
        "gain_high": float(high),
        "speed": float((tokens[1] / seconds[1]) / (tokens[0] / seconds[0])),
    }


def _gain(sums: np.ndarray) -> np.ndarray:
    """Accepted tokens a round of block verification, to the standard one's."""
    per_round = sums[..., 1] / sums[..., 0]
    gain: np.ndarray = per_round[..., 1] / per_round[..., 0]
    return gain


if __name__ == "__main__":
    main()
